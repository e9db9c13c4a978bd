//! The `retain` command: releases, archives or deletes collections that nobody uses, as
//! `stores.milvus.retention` asks. It runs once a day.
//!
//! What will happen is noted in MongoDB and reported `noticeDays` before. What is not known counts
//! as use: a collection is unused since the latest of its creation, its last write, its last noted
//! search, and the first run that saw it in its present condition.

mod decide;
mod report;

use std::collections::BTreeMap;
use std::time::Duration;

use layra_crds::{RetentionAction, RetentionSpec};
use mongodb::bson::DateTime;

use crate::assembly::Common;
use crate::commands::archive::archive_base;
use crate::commands::audit::id_in;
use crate::document::Cutoff;
use crate::document::task::Deletion;
use crate::kafka::ends::task_ends;
use crate::pipeline::Deleter;
use crate::runtime::failure::{Failure, Reason, Stage};
use crate::stores::Stores;
use crate::stores::mongo::{BaseLife, pattern_like};
use crate::stores::uses::Uses;
use decide::{Decision, Facts, Terms, decide};
use report::ItemState;

pub(crate) use report::Report;

/// Carries out the pipeline's retention. Without one, it does nothing. `unused_for`: instead of the
/// object's `unusedForDays`.
pub(crate) async fn retain(
    common: &Common,
    unused_for: Option<Duration>,
) -> Result<Report, Failure> {
    let mut report = Report::default();
    let Some(spec) = common.settings.config.stores.milvus.retention.clone() else {
        return Ok(report);
    };
    let stores = common.stores().await?;
    let run = Run {
        common,
        uses: Uses::new(stores.documents.database()),
        stores,
        terms: Terms::new(&spec, unused_for),
        spec,
        now: DateTime::now(),
    };
    let milvus = &run.stores.milvus;
    let bases = run.stores.documents.knowledge_base_ids().await?;
    let bases: BTreeMap<String, String> = bases
        .into_iter()
        .map(|id| (milvus.collection_of(&id), id))
        .collect();
    for name in run.stores.vectors.collection_names().await? {
        if milvus.owns_collection(&name) {
            report.checked += 1;
            match run.collection(&name, bases.get(&name), &mut report).await {
                // It was dropped, or a rebuild swaps it: the next run looks again.
                Err(failure) if is_gone(&failure) => {
                    tracing::info!(collection = name, %failure, "left out");
                }
                looked => looked?,
            }
        }
    }
    Ok(report)
}

fn is_gone(failure: &Failure) -> bool {
    matches!(
        failure.reason,
        Reason::CollectionGone | Reason::CollectionMoving
    )
}

struct Run<'a> {
    common: &'a Common,
    stores: Stores,
    uses: Uses,
    spec: RetentionSpec,
    terms: Terms,
    now: DateTime,
}

impl Run<'_> {
    async fn collection(
        &self,
        name: &str,
        base: Option<&String>,
        report: &mut Report,
    ) -> Result<(), Failure> {
        let Some((id, facts)) = self.facts(name, base).await? else {
            return Ok(());
        };
        let readers = self.stores.milvus.readers;
        let now = self.now.timestamp_millis();
        match decide(self.terms, readers, facts, now) {
            Decision::Keep => {
                if facts.noticed_at.is_some() && !self.spec.dry_run {
                    self.uses.notice(name, None).await?;
                }
            }
            Decision::Notice(at) | Decision::Wait(at) if self.spec.dry_run => {
                report.add(name, ItemState::DryRun, Some(at));
            }
            Decision::Act if self.spec.dry_run => report.add(name, ItemState::DryRun, Some(now)),
            Decision::Notice(at) => {
                self.uses.notice(name, Some(self.now)).await?;
                report.add(name, ItemState::Noticed, Some(at));
            }
            Decision::Wait(at) => report.add(name, ItemState::Waiting, Some(at)),
            Decision::Act => match Box::pin(self.act(name, &id, facts.base)).await {
                Ok(()) => report.add(name, ItemState::Done, None),
                Err(failure) => {
                    tracing::warn!(collection = name, %failure, "the collection is kept");
                    report.add_failure(name, &failure.to_string());
                }
            },
        }
        Ok(())
    }

    /// What is known about a collection, with the id of its knowledge base. `None`: it is gone.
    async fn facts(
        &self,
        name: &str,
        base: Option<&String>,
    ) -> Result<Option<(String, Facts)>, Failure> {
        let Stores {
            documents,
            ledger,
            vectors,
            ..
        } = &self.stores;
        let (Some(part), Some(description)) = (
            id_in(&self.stores.milvus, name),
            vectors.describe(name).await?,
        ) else {
            return Ok(None);
        };
        let pattern = pattern_like(part);
        let latest = ledger.latest_like(&pattern).await?;
        // In the name of the collection `-` and `_` are the same.
        let known = base.cloned();
        let known = known.or_else(|| latest.as_ref().map(|entry| entry.knowledge_db_id.clone()));
        // Not by its name alone: another LAYRA may have its collections in the same Milvus.
        let is_known = known.is_some() || ledger.knows_bases_like(&pattern).await?;
        let id = known.unwrap_or_else(|| part.to_owned());
        let life = documents.life_of(&id).await?;
        let condition = match life {
            BaseLife::Gone => "gone",
            BaseLife::MarkedDeleted => "marked deleted",
            BaseLife::InUse => "in use",
        };
        let noted = self.uses.see(name, condition).await?;
        let changed_at = latest.map(|entry| entry.updated_at);
        let times = [noted.searched, noted.seen, changed_at];
        let times = times.into_iter().flatten().map(DateTime::timestamp_millis);
        let facts = Facts {
            base: life,
            last_use: times.fold(description.created_at, i64::max),
            noticed_at: noted.noticed.map(DateTime::timestamp_millis),
            in_work: ledger.is_working_on_bases_like(&pattern).await?,
            is_own: is_known && description.has_layras_schema,
            is_loaded: vectors.is_loaded(name).await?,
        };
        Ok(Some((id, facts)))
    }

    async fn act(&self, name: &str, id: &str, base: BaseLife) -> Result<(), Failure> {
        match self.spec.action {
            RetentionAction::Release => self.stores.vectors.release(name).await,
            RetentionAction::Archive => archive_base(&self.stores, id).await.map(|_| ()),
            // Its documents are gone with it.
            RetentionAction::Delete if base == BaseLife::Gone => {
                self.stores.drop_unused_collection(id).await
            }
            RetentionAction::Delete => self.delete(id).await,
        }
    }

    async fn delete(&self, id: &str) -> Result<(), Failure> {
        let (retry, stop) = (self.common.retry(), &self.common.stop);
        let deleter = Deleter {
            stores: &self.stores,
            retry: &retry,
        };
        let settings = &self.common.settings;
        let read = |_| task_ends(settings);
        let ends = retry.run(Stage::Intake, stop, read).await?;
        let topic = &settings.config.source.kafka.topic;
        let cutoff = Cutoff::of_command(topic, &ends, DateTime::now());
        let deletion = Deletion::KnowledgeBase(id.to_owned());
        deleter.delete(&deletion, &cutoff, stop).await
    }
}
