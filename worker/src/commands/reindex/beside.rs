//! Rebuilds a collection beside the one that serves.

use std::sync::Arc;

use layra_crds::ReindexPhase;
use mongodb::bson::{DateTime, doc};

use super::Ended;
use super::comparison::{Comparison, Side};
use super::context::Context;
use super::reembed;
use super::settle;
use super::step::{Action, End, Found, next};
use crate::runtime::failure::{Failure, Reason, Stage};
use crate::runtime::retry::Refusals;
use crate::stores::milvus::{Choice, Described, Pages, Row};
use crate::stores::rebuilds::{Phase, Rebuild, stored};

/// Comparisons before the swap, at most. What is written during the last one is brought in after.
const MOST_COMPARISONS: u32 = 5;
/// The last comparison before the swap finds at most this many pages.
const FEW_PAGES: usize = 200;
/// Answers that are copied right before the swap, at most.
const MOST_ANSWERS: u32 = 5;
/// Files without an entry in MongoDB that are remembered.
const MOST_STRAYS: usize = 1000;
/// Pages whose rows are replaced together.
pub(super) const PAGES_AT_ONCE: usize = 20;

/// Continues a rebuild to its end or, with `until_swapped`, until the new collection serves (`None`).
pub(super) async fn advance(
    context: &Context,
    rebuild: &mut Rebuild,
    until_swapped: bool,
) -> Result<Option<Ended>, Failure> {
    loop {
        if until_swapped && rebuild.phase == Phase::Settling {
            return Ok(None);
        }
        // Of what others created while the name was missing, the rows must be brought in.
        if context.only_finishes && rebuild.phase == Phase::Filling && rebuild.others == 0 {
            undo(context, rebuild).await?;
            return Ok(Some(Ended::Undone));
        }
        let found = find(context, rebuild).await?;
        for action in next(rebuild, &found) {
            tracing::debug!(collection = rebuild.collection, ?action, "rebuild");
            if let Some(ended) = perform(context, rebuild, action).await? {
                return Ok(Some(ended));
            }
        }
    }
}

/// Drops the copy, which does not serve yet, and forgets the rebuild.
pub(super) async fn undo(context: &Context, rebuild: &Rebuild) -> Result<(), Failure> {
    drop_collection(context, &rebuild.new_name()).await?;
    if rebuild.model.is_some() {
        context.models.unseal(rebuild.old_id).await?;
    }
    let ended = context.rebuilds.end(&rebuild.collection, &context.owner);
    ended.await
}

async fn find(context: &Context, rebuild: &Rebuild) -> Result<Found, Failure> {
    let vectors = &context.vectors;
    let id = async |name: String| -> Result<Option<i64>, Failure> {
        Ok(vectors.describe(&name).await?.map(|found| found.id))
    };
    let new = id(rebuild.new_name()).await?;
    let is_outdated = match (rebuild.phase, new) {
        (Phase::Filling, Some(_)) if rebuild.new_id.is_some() => {
            let state = vectors.index_state(&rebuild.new_name()).await?;
            let state = state.as_ref().map(|state| &state.found);
            let is_of_other_model = rebuild.model.as_deref() != context.model_digest();
            is_of_other_model || context.index.difference(state).is_some()
        }
        _ => false,
    };
    let mut others = Vec::new();
    for number in 0..rebuild.others {
        others.push(id(rebuild.other_name(number)).await?);
    }
    let is_unwanted =
        rebuild.had_knowledge_base && !context.has_knowledge_base(&rebuild.collection).await?;
    Ok(Found {
        current: id(rebuild.collection.clone()).await?,
        new,
        old: id(rebuild.old_name()).await?,
        others,
        is_outdated,
        is_unwanted,
    })
}

async fn perform(
    context: &Context,
    rebuild: &mut Rebuild,
    action: Action,
) -> Result<Option<Ended>, Failure> {
    let vectors = &context.vectors;
    let name = rebuild.collection.clone();
    // Nothing is renamed or dropped by a process that was replaced. While the name is missing, every
    // request counts.
    if action != Action::MoveNew {
        context.record(rebuild, doc! {}).await?;
    }
    match action {
        Action::Create => create(context, rebuild).await?,
        Action::RecordNew => {
            let new = vectors.describe(&rebuild.new_name()).await?;
            let id = new.map(|new| new.id);
            context.record(rebuild, doc! { "new_id": id }).await?;
        }
        Action::Fill => match &context.reembedding {
            Some(model) => Box::pin(reembed::fill(context, model, rebuild)).await?,
            None => Box::pin(fill(context, rebuild)).await?,
        },
        Action::Enter(phase) => {
            let mut fields = doc! { "phase": stored(phase) };
            if phase == Phase::Swapping {
                carry_model(context, rebuild).await?;
                context.progress.phase(&name, ReindexPhase::Swapping, "");
                fields.insert("swapped_at", DateTime::now());
            }
            context.record(rebuild, fields).await?;
        }
        Action::CatchUp => match &context.reembedding {
            // The old collection is sealed, and its vectors must not be copied.
            Some(_) => {}
            None => catch_up(context, rebuild).await?,
        },
        Action::StartOver => start_over(context, rebuild).await?,
        Action::MoveOld => vectors.rename(&name, &rebuild.old_name()).await?,
        Action::MoveNew => {
            vectors.rename(&rebuild.new_name(), &name).await?;
            vectors.forget_name(&name).await?;
            tracing::info!(collection = name, "the new collection serves");
        }
        Action::PutBack => vectors.rename(&rebuild.old_name(), &name).await?,
        Action::CountOther => {
            tracing::warn!(
                collection = name,
                "created by another process during the swap"
            );
            let fields = doc! { "others": i64::from(rebuild.others) + 1 };
            context.record(rebuild, fields).await?;
        }
        Action::MoveOther(number) => vectors.rename(&name, &rebuild.other_name(number)).await?,
        Action::Settle => match &context.reembedding {
            Some(model) => Box::pin(reembed::settle(context, model, rebuild)).await?,
            None => Box::pin(settle::settle(context, rebuild)).await?,
        },
        Action::DropCurrent => drop_collection(context, &name).await?,
        Action::DropNew => drop_collection(context, &rebuild.new_name()).await?,
        Action::DropOld => drop_collection(context, &rebuild.old_name()).await?,
        Action::DropOther(number) => drop_collection(context, &rebuild.other_name(number)).await?,
        Action::End(end) => {
            context.rebuilds.end(&name, &context.owner).await?;
            return Ok(Some(match end {
                End::Done => Ended::Done,
                End::Gone => Ended::Gone,
            }));
        }
    }
    Ok(None)
}

async fn drop_collection(context: &Context, name: &str) -> Result<(), Failure> {
    context.vectors.drop_collection(name).await
}

/// The copy has vectors of the same model, unless they were computed again.
async fn carry_model(context: &Context, rebuild: &Rebuild) -> Result<(), Failure> {
    if let Some(model) = &context.reembedding {
        return reembed::enter(context, model, rebuild).await;
    }
    let Some(new_id) = rebuild.new_id else {
        return Ok(());
    };
    let models = &context.models;
    models
        .carry(rebuild.old_id, new_id, &rebuild.collection)
        .await
}

async fn start_over(context: &Context, rebuild: &mut Rebuild) -> Result<(), Failure> {
    let Some(current) = context.vectors.describe(&rebuild.collection).await? else {
        // Dropped again: the next look finds that.
        return Ok(());
    };
    let fields = doc! {
        "phase": stored(Phase::Filling), "old_id": current.id, "new_id": null,
        "restarts": i64::from(rebuild.restarts) + 1, "last_pk": 0_i64, "copied": 0_i64,
        "swapped_at": null, "model": context.model_digest(), "sealed_at": null, "last_file": null,
    };
    context.record(rebuild, fields).await
}

async fn create(context: &Context, rebuild: &Rebuild) -> Result<(), Failure> {
    let vectors = &context.vectors;
    let current = described(context, &rebuild.collection).await?;
    if let Some(obstacle) = current.obstacle {
        let collection = &rebuild.collection;
        return Err(super::failed(format!(
            "{collection} cannot be copied: {obstacle}"
        )));
    }
    let new = rebuild.new_name();
    if vectors.describe(&new).await?.is_none() {
        let current = described(context, &rebuild.collection).await?;
        match context.reembedding {
            Some(_) => vectors.create_for_model(&new).await?,
            None => vectors.create_like(&new, &current).await?,
        }
    }
    vectors.ensure_index(&new).await
}

/// A collection that exists.
pub(super) async fn described(context: &Context, name: &str) -> Result<Described, Failure> {
    let found = context.vectors.describe(name).await?;
    found.ok_or_else(|| {
        let message = format!("collection {name} was dropped during its rebuild");
        Failure::transient(Stage::Milvus, Reason::MilvusUnavailable, message)
    })
}

/// Copies every row, waits for the index, and compares.
async fn fill(context: &Context, rebuild: &mut Rebuild) -> Result<(), Failure> {
    let name = rebuild.collection.clone();
    let (new, progress) = (rebuild.new_name(), &context.progress);
    let current = described(context, &name).await?;
    let pages = Pages::new(current.dimensions, current.dynamic);
    // It may have been released; then nobody misses it while it is copied.
    context.load(&name).await?;
    progress.total(&name, context.vectors.count_all(&name).await?);
    progress.phase(&name, ReindexPhase::Copying, "");
    progress.copied(&name, unsigned(rebuild.copied));
    copy(context, rebuild, pages).await?;

    progress.phase(&name, ReindexPhase::Indexing, "");
    context.vectors.flush(&new).await?;
    context.wait_for_index(&new, 0).await?;
    // Only now: Milvus reads the indexed segments at once. It would replace those of a loaded
    // collection some time later, maybe after the swap.
    context.load(&new).await?;
    let rows = context.vectors.count_all(&new).await?;
    context.wait_for_index(&new, rows).await?;

    progress.phase(&name, ReindexPhase::Verifying, "");
    for _comparison in 0..MOST_COMPARISONS {
        let compared = compare(context, &name, &new, pages).await?;
        // What was read has been compared, and is not copied again.
        let last_pk = compared.last_pk.max(rebuild.last_pk);
        let strays = strays(context, &compared.files).await?;
        let fields = doc! { "last_pk": last_pk, "strays": strays };
        context.record(rebuild, fields).await?;
        if compared.differing <= FEW_PAGES {
            break;
        }
    }
    // What was written since, as far as its keys are later than all others.
    copy(context, rebuild, pages.again()).await
}

/// Copies the rows after the last one that was copied.
async fn copy(context: &Context, rebuild: &mut Rebuild, pages: Pages) -> Result<(), Failure> {
    context.check_time()?;
    while copy_some(context, rebuild, pages).await? {
        context.check_time()?;
    }
    Ok(())
}

/// Copies what was written since the comparison. Not for ever: writes may come faster.
async fn catch_up(context: &Context, rebuild: &mut Rebuild) -> Result<(), Failure> {
    let current = described(context, &rebuild.collection).await?;
    let pages = Pages::new(current.dimensions, current.dynamic);
    for _answer in 0..MOST_ANSWERS {
        if !copy_some(context, rebuild, pages.again()).await? {
            break;
        }
    }
    Ok(())
}

/// Copies one answer of rows after the last one that was copied. Returns whether there was any.
async fn copy_some(
    context: &Context,
    rebuild: &mut Rebuild,
    pages: Pages,
) -> Result<bool, Failure> {
    let (name, new) = (rebuild.collection.clone(), rebuild.new_name());
    let rows = context
        .vectors
        .rows_after(&name, Choice::All, rebuild.last_pk, pages)
        .await?;
    let Some(last) = rows.last() else {
        return Ok(false);
    };
    let fields = doc! {
        "last_pk": last.pk,
        "copied": rebuild.copied + i64::try_from(rows.len()).unwrap_or(i64::MAX),
    };
    insert(context, &new, &rows).await?;
    context.record(rebuild, fields).await?;
    context.progress.copied(&name, unsigned(rebuild.copied));
    Ok(true)
}

/// Inserts copies, within the limits.
pub(super) async fn insert(context: &Context, name: &str, rows: &[Row]) -> Result<(), Failure> {
    context.throttle.wait_for(rows.len()).await;
    let (mut attempts, mut refusals) = (0, Refusals::default());
    // What Milvus refuses for its rate or a quota has had no effect. The pauses do not grow from
    // page to page.
    while let Err(failure) = context.vectors.insert_rows(name, rows).await {
        if failure.reason != Reason::MilvusThrottled {
            return Err(failure);
        }
        let pause = context
            .retry
            .pause(&context.stop, &failure, attempts, &mut refusals);
        pause.await?;
        attempts += 1;
    }
    let inserted = u64::try_from(rows.len()).unwrap_or(u64::MAX);
    context.metrics.vectors.inc_by(inserted);
    Ok(())
}

/// The files that `files` in MongoDB does not have. `None`: too many to remember.
async fn strays(context: &Context, files: &[Arc<str>]) -> Result<Option<Vec<String>>, Failure> {
    let known = settle::known(context, files).await?;
    let strays = files.iter().filter(|file| !known.contains(file.as_ref()));
    let strays: Vec<String> = strays.map(ToString::to_string).collect();
    Ok((strays.len() <= MOST_STRAYS).then_some(strays))
}

/// What a comparison found.
struct Compared {
    /// Pages that differed, and were replaced.
    differing: usize,
    /// The last primary key that was compared.
    last_pk: i64,
    files: Vec<Arc<str>>,
}

/// Compares the whole collection with its copy, and replaces the pages that differ.
async fn compare(
    context: &Context,
    name: &str,
    new: &str,
    pages: Pages,
) -> Result<Compared, Failure> {
    let mut comparison = Comparison::default();
    let all = Choice::All;
    read(context, new, all, Side::New, pages, &mut comparison).await?;
    let last = read(context, name, all, Side::Old, pages, &mut comparison).await?;
    let files = comparison.files();
    let differences = comparison.differences().into_values();
    let differing: Vec<String> = differences
        .flat_map(|found| [found.missing, found.extra, found.changed].concat())
        .collect();
    for images in differing.chunks(PAGES_AT_ONCE) {
        context.check_time()?;
        replace(context, &[name.to_owned()], new, images, pages).await?;
    }
    if !differing.is_empty() {
        tracing::info!(
            collection = name,
            pages = differing.len(),
            "pages brought up to date"
        );
    }
    Ok(Compared {
        differing: differing.len(),
        last_pk: last,
        files,
    })
}

/// Adds the chosen rows of a collection to a comparison. Returns the last primary key.
pub(super) async fn read(
    context: &Context,
    name: &str,
    choice: Choice<'_>,
    side: Side,
    pages: Pages,
    comparison: &mut Comparison,
) -> Result<i64, Failure> {
    let pages = pages.again();
    let mut last = 0;
    loop {
        let rows = context
            .vectors
            .rows_after(name, choice, last, pages)
            .await?;
        let Some(row) = rows.last() else {
            return Ok(last);
        };
        last = row.pk;
        for row in &rows {
            comparison.add(side, row);
        }
        if context.stop.is_cancelled() {
            return Err(Failure::stopped(Stage::Milvus));
        }
    }
}

/// Replaces the rows of some pages by those of the sources.
pub(super) async fn replace(
    context: &Context,
    sources: &[String],
    target: &str,
    images: &[String],
    pages: Pages,
) -> Result<(), Failure> {
    let ids = images.iter().map(String::as_str);
    context.vectors.delete_pages(target, ids).await?;
    bring(context, sources, target, Choice::Images(images), pages).await
}

/// Copies the chosen rows of the sources.
pub(super) async fn bring(
    context: &Context,
    sources: &[String],
    target: &str,
    choice: Choice<'_>,
    pages: Pages,
) -> Result<(), Failure> {
    for source in sources {
        let mut last = 0;
        loop {
            let rows = context
                .vectors
                .rows_after(source, choice, last, pages.again())
                .await?;
            let Some(row) = rows.last() else {
                break;
            };
            last = row.pk;
            insert(context, target, &rows).await?;
        }
    }
    Ok(())
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}
