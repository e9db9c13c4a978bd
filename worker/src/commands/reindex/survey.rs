//! Finds the collections that are to be rebuilt.

use std::io::Write;

use futures::{StreamExt as _, TryStreamExt as _};
use layra_crds::is_rebuild_collection;
use mongodb::bson::DateTime;

use super::context::Context;
use super::reembed;
use crate::document::Fingerprint;
use crate::runtime::failure::{Failure, Stage};
use crate::stores::rebuilds::Phase;

/// Collections that are looked at together.
const CONCURRENCY: usize = 8;
/// No index is tried for longer, with all pauses.
const LONGEST_TRIAL_MS: i64 = 10 * 60 * 1000;

/// What was found.
#[derive(Debug)]
pub(super) struct Survey {
    /// The pipeline's collections.
    pub(super) collections: usize,
    pub(super) tasks: Vec<Task>,
}

/// A collection to work on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Task {
    pub(super) collection: String,
    pub(super) job: Job,
    /// How its index differs, for people.
    pub(super) difference: String,
    /// An estimate.
    pub(super) rows: u64,
}

/// What to do with a collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Job {
    /// Continue what an earlier run began.
    Continue(Phase),
    /// Replace the index at once: nobody finds anything in it.
    Mend,
    Rebuild,
}

impl Task {
    /// Whether this waits for the next window.
    pub(super) fn needs_window(&self) -> bool {
        match self.job {
            Job::Continue(phase) => phase == Phase::Filling,
            Job::Mend => false,
            Job::Rebuild => true,
        }
    }
}

impl Survey {
    pub(super) fn write(&self, out: &mut impl Write) -> std::io::Result<()> {
        for task in &self.tasks {
            let what = match task.job {
                Job::Continue(_) => "would be continued",
                Job::Mend => "is empty or has no index, would be mended at once",
                Job::Rebuild => "would be rebuilt",
            };
            let Task {
                collection,
                difference,
                rows,
                ..
            } = task;
            writeln!(
                out,
                "{collection}: {what}: {difference} (about {rows} vectors)"
            )?;
        }
        let (drifted, all) = (self.tasks.len(), self.collections);
        writeln!(out, "{drifted} of {all} collections")
    }
}

/// Looks at all collections of the pipeline, or at one.
pub(super) async fn survey(context: &Context, only: Option<&str>) -> Result<Survey, Failure> {
    let (retry, stop) = (&context.retry, &context.stop);
    retry
        .run(Stage::Milvus, stop, |_| survey_once(context, only))
        .await
}

async fn survey_once(context: &Context, only: Option<&str>) -> Result<Survey, Failure> {
    let is_meant = |name: &str| only.is_none_or(|only| only == name);
    let mut names = context.vectors.collection_names().await?;
    names.retain(|name| context.milvus.owns_collection(name));
    names.sort();
    let collections = names.len();
    let rebuilds = context.rebuilds.all().await?;
    names.retain(|name| is_meant(name));
    names.retain(|name| !rebuilds.iter().any(|rebuild| rebuild.collection == *name));
    let mut tasks: Vec<Task> = rebuilds
        .into_iter()
        .filter(|rebuild| context.milvus.owns_collection(&rebuild.collection))
        .filter(|rebuild| is_meant(&rebuild.collection) && context.continues(rebuild))
        .map(|rebuild| Task {
            collection: rebuild.collection,
            job: Job::Continue(rebuild.phase),
            difference: "its rebuild was begun earlier".to_owned(),
            rows: 0,
        })
        .collect();
    let looks = names.into_iter().map(|name| async move {
        match &context.reembedding {
            Some(model) => look_at_model(context, model.own(), name, only.is_some()).await,
            None => look(context, name).await,
        }
    });
    let found: Vec<Option<Task>> = futures::stream::iter(looks)
        .buffered(CONCURRENCY)
        .try_collect()
        .await?;
    tasks.extend(found.into_iter().flatten());
    Ok(Survey { collections, tasks })
}

/// `None`: the index is as it should be, or the collection was dropped.
async fn look(context: &Context, name: String) -> Result<Option<Task>, Failure> {
    let vectors = &context.vectors;
    if vectors.describe(&name).await?.is_none() {
        return Ok(None);
    }
    let state = vectors.index_state(&name).await?;
    let found = state.as_ref().map(|state| &state.found);
    let Some(difference) = context.index.difference(found) else {
        return Ok(None);
    };
    let rows = vectors.estimated_rows(&name).await?;
    let nothing_is_found = if state.is_none() {
        true
    } else if rows > 0 || !vectors.is_loaded(&name).await? {
        false
    } else {
        vectors.count_all(&name).await? == 0
    };
    let job = if nothing_is_found {
        Job::Mend
    } else {
        Job::Rebuild
    };
    Ok(Some(Task {
        collection: name,
        job,
        difference,
        rows,
    }))
}

/// `None`: the vectors are of this model, or the collection was dropped. `is_named`: by the one who
/// runs the command.
async fn look_at_model(
    context: &Context,
    own: &Fingerprint,
    name: String,
    is_named: bool,
) -> Result<Option<Task>, Failure> {
    let vectors = &context.vectors;
    let Some(found) = vectors.describe(&name).await? else {
        return Ok(None);
    };
    let record = context.models.find(found.id).await?;
    let Some(difference) = reembed::difference(record.as_ref(), own, is_named) else {
        return Ok(None);
    };
    let rows = vectors.estimated_rows(&name).await?;
    Ok(Some(Task {
        collection: name,
        job: Job::Rebuild,
        difference,
        rows,
    }))
}

/// Drops collections on which a run that was killed tried an index. Another pipeline, or another
/// LAYRA, may try one at this moment.
pub(super) async fn drop_trials(context: &Context) -> Result<(), Failure> {
    let now = DateTime::now().timestamp_millis();
    let drop_all = |_| async {
        for name in context.vectors.collection_names().await? {
            if !is_rebuild_collection(&name) || !name.ends_with("_trial") {
                continue;
            }
            let found = context.vectors.describe(&name).await?;
            if found.is_some_and(|found| found.created_at < now - LONGEST_TRIAL_MS) {
                context.vectors.drop_collection(&name).await?;
            }
        }
        Ok(())
    };
    context
        .retry
        .run(Stage::Milvus, &context.stop, drop_all)
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_work_that_copies_or_hides_pages_waits_for_the_window() {
        for (job, waits) in [
            (Job::Rebuild, true),
            (Job::Continue(Phase::Filling), true),
            (Job::Continue(Phase::Swapping), false),
            (Job::Continue(Phase::Settling), false),
            (Job::Continue(Phase::InPlace), false),
            (Job::Mend, false),
        ] {
            let task = Task {
                collection: "c".into(),
                job,
                difference: String::new(),
                rows: 1,
            };
            assert_eq!(task.needs_window(), waits, "{job:?}");
        }
    }
}
