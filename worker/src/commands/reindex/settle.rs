//! Brings into the new collection, which serves, what the old one got last.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use layra_crds::ReindexPhase;
use mongodb::bson::DateTime;

use super::beside::{PAGES_AT_ONCE, bring, described, read, replace};
use super::comparison::{Comparison, Difference, Side, Sum};
use super::context::Context;
use super::served::wait_until_served;
use super::verdict::{FileState, Look, Verdict, verdict};
use crate::runtime::failure::{Class, Failure, Reason};
use crate::stores::ledger::Entry;
use crate::stores::milvus::{Choice, Pages};
use crate::stores::rebuilds::Rebuild;

/// So many files are not deleted at once by mistake: MongoDB has lost them.
const MANY: usize = 100;
/// Of more pages than this, comparing all takes no longer.
const MOST_LATEST: usize = 500;
/// Files that are looked up together.
const FILES_AT_ONCE: usize = 500;

/// The collections of a settlement.
struct Places<'a> {
    /// The old one, and those that others created during the swap.
    sources: Vec<String>,
    /// The one that serves.
    target: &'a str,
    pages: Pages,
    swapped_at: DateTime,
    /// The files that MongoDB did not have before the swap. `None`: too many.
    strays: Option<HashSet<String>>,
    /// Every row of the old collection up to this primary key was copied before the swap, unless its
    /// key came late.
    last_pk: i64,
}

/// What the first look found.
#[derive(Default)]
struct Before {
    /// The rows of the files that differed.
    rows: BTreeMap<Arc<str>, Sum>,
    /// The files that `files` in MongoDB had.
    known: HashSet<String>,
    /// The rows of all files in the new collection.
    new_rows: BTreeMap<Arc<str>, u64>,
}

/// Compares the old and the new collection twice. In between, every request that was in flight at
/// the swap has landed or failed. Then the old one is not needed any more.
pub(super) async fn settle(context: &Context, rebuild: &Rebuild) -> Result<(), Failure> {
    let name = &rebuild.collection;
    let message = "the new collection serves; what was in flight during the swap is brought in";
    context
        .progress
        .phase(name, ReindexPhase::Verifying, message);
    let mut sources = Vec::new();
    let mut names = vec![rebuild.old_name()];
    names.extend((0..rebuild.others).map(|number| rebuild.other_name(number)));
    for source in names {
        if context.vectors.describe(&source).await?.is_some() {
            context.vectors.ensure_index(&source).await?;
            context.load(&source).await?;
            sources.push(source);
        }
    }
    if sources.is_empty() {
        // Dropped by hand: there is nothing to compare with.
        return Ok(());
    }
    let current = described(context, name).await?;
    let places = Places {
        sources,
        target: name,
        pages: Pages::new(current.dimensions, current.dynamic),
        swapped_at: rebuild.swapped_at.unwrap_or(rebuild.started_at),
        strays: rebuild.strays.clone().map(HashSet::from_iter),
        last_pk: rebuild.last_pk,
    };
    wait_until_served(context, places.target, &places.sources).await?;
    look_at_latest(context, &places).await?;
    let before = look(context, &places, Look::First, &Before::default()).await?;
    context.pause(context.late_writes).await?;
    look(context, &places, Look::Last, &before).await?;
    Ok(())
}

/// Brings in first what was written in the last moment before the swap: comparing all takes longer.
async fn look_at_latest(context: &Context, places: &Places<'_>) -> Result<(), Failure> {
    let mut images = BTreeSet::new();
    for (number, source) in places.sources.iter().enumerate() {
        // Of what others created during the swap, nothing was copied.
        let mut last = if number == 0 { places.last_pk } else { 0 };
        let pages = places.pages.again();
        loop {
            let rows = context.vectors.rows_after(source, Choice::All, last, pages);
            let rows = rows.await?;
            let Some(row) = rows.last() else {
                break;
            };
            last = row.pk;
            images.extend(rows.into_iter().map(|row| row.image_id));
            if images.len() > MOST_LATEST {
                return Ok(());
            }
        }
    }
    let images: Vec<String> = images.into_iter().collect();
    for images in images.chunks(PAGES_AT_ONCE) {
        let comparison = compare(context, places, Choice::Images(images)).await?;
        let known = known(context, &comparison.files()).await?;
        bring_in(
            context,
            places,
            Look::First,
            comparison,
            &known,
            &Before::default(),
        )
        .await?;
    }
    Ok(())
}

async fn look(
    context: &Context,
    places: &Places<'_>,
    look: Look,
    before: &Before,
) -> Result<Before, Failure> {
    let comparison = compare(context, places, Choice::All).await?;
    let known = known(context, &comparison.files()).await?;
    let new_rows = comparison.new_rows();
    if look == Look::Last {
        remove_deleted(context, places, before, &known, &new_rows).await?;
    }
    let rows = bring_in(context, places, look, comparison, &known, before).await?;
    Ok(Before {
        rows,
        known,
        new_rows,
    })
}

async fn compare(
    context: &Context,
    places: &Places<'_>,
    choice: Choice<'_>,
) -> Result<Comparison, Failure> {
    let mut comparison = Comparison::default();
    let pages = places.pages;
    for source in &places.sources {
        read(context, source, choice, Side::Old, pages, &mut comparison).await?;
    }
    let target = places.target;
    read(context, target, choice, Side::New, pages, &mut comparison).await?;
    Ok(comparison)
}

/// Does about each file that differs what its verdict says. Returns the rows that the new collection
/// had of it.
async fn bring_in(
    context: &Context,
    places: &Places<'_>,
    look: Look,
    comparison: Comparison,
    known: &HashSet<String>,
    before: &Before,
) -> Result<BTreeMap<Arc<str>, Sum>, Failure> {
    let mut rows = BTreeMap::new();
    let differences: Vec<_> = comparison.differences().into_iter().collect();
    for files in differences.chunks(FILES_AT_ONCE) {
        let ids: Vec<&str> = files.iter().map(|(file, _)| file.as_ref()).collect();
        let entries = context.ledger.find_all(&ids).await?;
        let mut work = Work::default();
        for (file, difference) in files {
            let state = FileState {
                is_known: known.contains(file.as_ref()),
                entry: entries.iter().find(|entry| *entry.file_id == **file),
                misses: !difference.missing.is_empty(),
                is_changed: !difference.changed.is_empty(),
                old_rows: 0,
                new_rows: difference.new.rows,
                is_unchanged: before.rows.get(file) == Some(&difference.new),
            };
            rows.insert(Arc::clone(file), difference.new);
            one_file(context, places, look, file, difference, state, &mut work).await?;
        }
        perform(context, places, work).await?;
    }
    Ok(rows)
}

/// Removes the rows of files that were deleted since the swap, if the deletion did not find them: the
/// name was missing, or they were copied a moment before.
///
/// A file that MongoDB did not have before the swap stays, as in the old collection. One that LAYRA
/// is writing has no entry yet, and grows.
async fn remove_deleted(
    context: &Context,
    places: &Places<'_>,
    before: &Before,
    known: &HashSet<String>,
    new_rows: &BTreeMap<Arc<str>, u64>,
) -> Result<(), Failure> {
    let is_deleted = |(file, rows): &(&Arc<str>, &u64)| {
        let was_stray = places
            .strays
            .as_ref()
            .is_none_or(|strays| strays.contains(file.as_ref()));
        let is_unchanged = before.new_rows.get(*file) == Some(*rows);
        !known.contains(file.as_ref())
            && (before.known.contains(file.as_ref()) || (!was_stray && is_unchanged))
    };
    let deleted: Vec<_> = new_rows.iter().filter(is_deleted).collect();
    if deleted.len() > MANY && deleted.len() > new_rows.len() / 2 {
        return Err(super::failed(format!(
            "{} of {} files of {} vanished from MongoDB during the rebuild: nothing was removed",
            deleted.len(),
            new_rows.len(),
            places.target
        )));
    }
    for (file, _) in deleted {
        tracing::info!(
            collection = places.target,
            file = file.as_ref(),
            "deleted meanwhile"
        );
        context.vectors.delete_file(places.target, file).await?;
    }
    Ok(())
}

/// What is done for several files together.
#[derive(Default)]
struct Work {
    copied: Vec<String>,
    replaced: Vec<String>,
    /// The files of the replaced pages.
    files: Vec<String>,
}

async fn perform(context: &Context, places: &Places<'_>, work: Work) -> Result<(), Failure> {
    let (sources, target, pages) = (&places.sources, places.target, places.pages);
    for images in work.copied.chunks(PAGES_AT_ONCE) {
        bring(context, sources, target, Choice::Images(images), pages).await?;
    }
    for images in work.replaced.chunks(PAGES_AT_ONCE) {
        replace(context, sources, target, images, pages).await?;
    }
    // LAYRA may have deleted files while their rows were copied.
    let files: Vec<&str> = work.files.iter().map(String::as_str).collect();
    let known = context.documents.existing_files(&files).await?;
    for file in files.into_iter().filter(|file| !known.contains(*file)) {
        context.vectors.delete_file(target, file).await?;
    }
    Ok(())
}

/// Those of some files that `files` in MongoDB has.
pub(super) async fn known(
    context: &Context,
    files: &[Arc<str>],
) -> Result<HashSet<String>, Failure> {
    let mut known = HashSet::new();
    for files in files.chunks(FILES_AT_ONCE) {
        let ids: Vec<&str> = files.iter().map(AsRef::as_ref).collect();
        known.extend(context.documents.existing_files(&ids).await?);
    }
    Ok(known)
}

async fn one_file(
    context: &Context,
    places: &Places<'_>,
    look: Look,
    file: &str,
    difference: &Difference,
    mut state: FileState<'_>,
    work: &mut Work,
) -> Result<(), Failure> {
    if let Some(entry) = state.entry
        && let Some(rows) = entry.vectors
        && state.is_known
    {
        let was_counted_since = entry.finished_at.is_some_and(|at| at > places.swapped_at);
        if was_counted_since && !state.misses && !state.is_changed {
            state.new_rows = rows;
        } else {
            let vectors = &context.vectors;
            state.new_rows = vectors.count_file(places.target, file).await?;
            for source in &places.sources {
                state.old_rows += vectors.count_file(source, file).await?;
            }
        }
    }
    let verdict = verdict(&state, look, places.swapped_at);
    if verdict != Verdict::Leave {
        tracing::info!(
            collection = places.target,
            file,
            ?verdict,
            ?look,
            "after the swap"
        );
    }
    match verdict {
        Verdict::Leave => {}
        Verdict::Copy => work.copied.extend_from_slice(&difference.missing),
        Verdict::Replace => {
            work.replaced.extend_from_slice(&difference.missing);
            work.replaced.extend_from_slice(&difference.changed);
            work.files.push(file.to_owned());
        }
        Verdict::ReplaceAll => {
            if let Some(entry) = state.entry {
                replace_all(context, places, entry, difference).await?;
            }
        }
        Verdict::Remove => context.vectors.delete_file(places.target, file).await?,
        Verdict::Recheck => context.ledger.schedule_count(file).await?,
    }
    Ok(())
}

/// Replaces all rows of a file under the lease of its entry: no round begins meanwhile. If pages are
/// only missing, the others stay, and are found meanwhile. A file that is worked on is left to its
/// worker, which counts its rows.
async fn replace_all(
    context: &Context,
    places: &Places<'_>,
    entry: &Entry,
    difference: &Difference,
) -> Result<(), Failure> {
    let (sources, target, pages) = (&places.sources, places.target, places.pages);
    let file = &entry.file_id;
    let lease = match context.ledger.lease(entry).await {
        Err(failure)
            if failure.class == Class::Superseded || failure.reason == Reason::BeingRemoved =>
        {
            return Ok(());
        }
        lease => lease?,
    };
    let replacing = async {
        if difference.only_misses() {
            for images in difference.missing.chunks(PAGES_AT_ONCE) {
                bring(context, sources, target, Choice::Images(images), pages).await?;
            }
        } else {
            context.vectors.delete_file(target, file).await?;
            bring(context, sources, target, Choice::File(file), pages).await?;
        }
        context.vectors.count_file(target, file).await
    };
    let rows = match context
        .ledger
        .under_lease(&lease, Box::pin(replacing))
        .await
    {
        // A deletion has taken the lease; its recheck removes what was copied.
        Err(failure) if failure.class == Class::Superseded => return Ok(()),
        rows => rows?,
    };
    context.ledger.end_lease(&lease).await?;
    if Some(rows) != entry.vectors {
        context.ledger.schedule_count(file).await?;
    }
    Ok(())
}
