//! Brings into the new collection, which serves, what the old one got last.

use std::collections::BTreeMap;
use std::sync::Arc;

use layra_crds::ReindexPhase;
use mongodb::bson::DateTime;

use super::beside::{PAGES_AT_ONCE, bring, described, read, replace};
use super::comparison::{Comparison, Difference, Side, Sum};
use super::context::Context;
use super::verdict::{FileState, Look, Verdict, verdict};
use crate::runtime::failure::{Class, Failure, Reason};
use crate::stores::ledger::Entry;
use crate::stores::milvus::{Choice, Pages};
use crate::stores::rebuilds::Rebuild;

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
}

/// The rows of the files that differ at the first look.
type Before = BTreeMap<Arc<str>, Sum>;

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
    };
    let before = look(context, &places, Look::First, &Before::new()).await?;
    context.pause(context.late_writes).await?;
    look(context, &places, Look::Last, &before).await?;
    Ok(())
}

async fn look(
    context: &Context,
    places: &Places<'_>,
    look: Look,
    before: &Before,
) -> Result<Before, Failure> {
    let mut comparison = Comparison::default();
    let pages = places.pages;
    for source in &places.sources {
        read(context, source, Side::Old, pages, &mut comparison).await?;
    }
    read(context, places.target, Side::New, pages, &mut comparison).await?;
    let differences: Vec<_> = comparison.differences().into_iter().collect();
    for files in differences.chunks(FILES_AT_ONCE) {
        let ids: Vec<&str> = files.iter().map(|(file, _)| file.as_ref()).collect();
        let owned = ids.iter().map(|id| (*id).to_owned()).collect();
        let known = context.documents.stored_files(owned).await?;
        let entries = context.ledger.find_all(&ids).await?;
        for (file, difference) in files {
            let state = FileState {
                is_known: known.iter().any(|(id, _)| **id == **file),
                entry: entries.iter().find(|entry| *entry.file_id == **file),
                misses: !difference.missing.is_empty(),
                is_changed: !difference.changed.is_empty(),
                old_rows: 0,
                new_rows: difference.new.rows,
                is_unchanged: before.get(file) == Some(&difference.new),
            };
            one_file(context, places, look, file, difference, state).await?;
        }
    }
    let sums = differences.into_iter();
    Ok(sums.map(|(file, found)| (file, found.new)).collect())
}

async fn one_file(
    context: &Context,
    places: &Places<'_>,
    look: Look,
    file: &str,
    difference: &Difference,
    mut state: FileState<'_>,
) -> Result<(), Failure> {
    if state.is_known && state.entry.is_some_and(|entry| entry.vectors.is_some()) {
        let vectors = &context.vectors;
        state.new_rows = vectors.count_file(places.target, file).await?;
        for source in &places.sources {
            state.old_rows += vectors.count_file(source, file).await?;
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
    let (sources, target, pages) = (&places.sources, places.target, places.pages);
    match verdict {
        Verdict::Leave => {}
        Verdict::Copy => {
            for images in difference.missing.chunks(PAGES_AT_ONCE) {
                bring(context, sources, target, Choice::Images(images), pages).await?;
            }
        }
        Verdict::Replace => {
            let images = [difference.missing.as_slice(), &difference.changed].concat();
            for images in images.chunks(PAGES_AT_ONCE) {
                replace(context, sources, target, images, pages).await?;
            }
            // LAYRA may have deleted the file while its rows were copied.
            if context.documents.stored_file(file).await?.is_none() {
                context.vectors.delete_file(target, file).await?;
            }
        }
        Verdict::ReplaceAll => {
            if let Some(entry) = state.entry {
                replace_all(context, places, entry).await?;
            }
        }
        Verdict::Remove => context.vectors.delete_file(target, file).await?,
        Verdict::Recheck => context.ledger.schedule_count(file).await?,
    }
    Ok(())
}

/// Replaces all rows of a file under the lease of its entry: no round begins meanwhile. A file that
/// is worked on is left to its worker, which counts its rows.
async fn replace_all(context: &Context, places: &Places<'_>, entry: &Entry) -> Result<(), Failure> {
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
        context.vectors.delete_file(places.target, file).await?;
        let choice = Choice::File(file);
        bring(
            context,
            &places.sources,
            places.target,
            choice,
            places.pages,
        )
        .await?;
        context.vectors.count_file(places.target, file).await
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
