//! What the condition `VectorStoreReady` says about a rebuild. Pure.

use jiff::Timestamp;
use kube::ResourceExt;
use layra_crds::{IndexStatus, OnIndexDrift};

use super::{
    conditions::Verdict,
    rebuild::{Need, Situation},
    rebuild_progress::whole,
    template::sentence,
};
use crate::{
    reconcile::{reason::Reason, rebuild_job::RebuildJob},
    resources::JobKind,
};

impl Situation<'_> {
    pub(super) fn verdict(
        &self,
        need: &Need,
        status: Option<&IndexStatus>,
        next_start: Option<Timestamp>,
    ) -> Option<Verdict> {
        let status = status?;
        if self.only_reports() {
            return self.finishing(need, status, next_start);
        }
        let is_going_on = status.start_time.is_some();
        let job = self.job().filter(|job| job.is_running() && is_going_on);
        self.world.indexes.as_ref().ok()?;
        if job.is_none() {
            let rests = self.inputs.is_stalled
                || self.pipeline.spec.paused
                || (self.report().is_none() && !self.must_look())
                || !need.has_work;
            if rests {
                return None;
            }
        }
        let left = self.left(status);
        let name = self.kind.job_name(&self.pipeline.name_any());
        if let Some(error) = need.invalid_window() {
            return Some(Verdict::yes(
                Reason::RebuildWindowInvalid,
                format!(
                    "{left} They are not rebuilt, because stores.milvus.rebuild.window is invalid: {error}."
                ),
            ));
        }
        if let Some(obstacle) = self.obstacle(need).filter(|_| job.is_none()) {
            return Some(Verdict::yes(
                Reason::RebuildHeld,
                format!("{left} They are not rebuilt. {obstacle}"),
            ));
        }
        if let Some(job) = job {
            return Some(Verdict::yes(
                self.rebuilding(),
                self.going_on(&name, status, job),
            ));
        }
        if let Some(other) = &self.blocked_by {
            return Some(Verdict::yes(
                self.rebuilding(),
                format!("{left} Job {name} starts when Job {other} has ended."),
            ));
        }
        let is_closed = !need.is_open() && !need.is_urgent;
        let again = match next_start {
            _ if is_closed => need.opening(),
            Some(at) => format!(" at {at}"),
            None => String::new(),
        };
        let last = status.last_job.as_ref();
        if let Some(words) = last.and_then(|last| last.failure.as_deref()) {
            return Some(Verdict::yes(
                self.failed(),
                format!(
                    "{left} Job {name} failed, and the next one starts{again}: {}",
                    sentence(words)
                ),
            ));
        }
        if is_closed {
            return Some(Verdict::yes(
                Reason::RebuildWaiting,
                format!("{left} The rebuild starts when its window opens{again}."),
            ));
        }
        Some(Verdict::yes(
            self.rebuilding(),
            format!("{left} Job {name} starts{again}."),
        ))
    }

    /// Collections are of another model, and nothing embeds them again.
    pub(super) fn mismatch(&self) -> Option<Verdict> {
        let report = self.report().filter(|_| self.kind == JobKind::Reembed)?;
        let example = report.examples.first().map_or_else(String::new, |first| {
            format!(" For example {}: {}.", first.name, first.difference)
        });
        let gpu = self.pipeline.spec.worker.gpu.as_ref();
        let gpu = gpu.map_or("", |_| "--gpu ");
        let name = self.pipeline.name_any();
        let remedy = if self.only_reports() {
            format!(
                "Embed them again, with stores.milvus.onModelChange: ReembedBeside or `kubectl layra run {gpu}{name} -- reembed`, or set the model back."
            )
        } else {
            "They are embedded again as soon as the pipeline goes on.".to_owned()
        };
        (report.drifted > 0).then(|| {
            Verdict::yes(
                Reason::ModelMismatch,
                format!(
                    "{}{example} Their documents wait, and searches are refused. {remedy} status.otherModelCollections lists the first.",
                    other_models(whole(report.drifted), whole(report.collections))
                ),
            )
        })
    }

    fn rebuilding(&self) -> Reason {
        match self.kind {
            JobKind::Reindex => Reason::Rebuilding,
            JobKind::Reembed => Reason::Reembedding,
        }
    }

    fn failed(&self) -> Reason {
        match self.kind {
            JobKind::Reindex => Reason::RebuildFailed,
            JobKind::Reembed => Reason::ReembeddingFailed,
        }
    }

    /// If drift is only reported: what a Job does that finishes, or undoes, what others have begun.
    fn finishing(
        &self,
        need: &Need,
        status: &IndexStatus,
        next_start: Option<Timestamp>,
    ) -> Option<Verdict> {
        self.world.indexes.as_ref().ok()?;
        if !need.is_unfinished || self.inputs.is_stalled || self.pipeline.spec.paused {
            return None;
        }
        let left = self.left(status);
        let name = self.kind.job_name(&self.pipeline.name_any());
        let is_running = self.job().is_some_and(RebuildJob::is_running);
        let failure = status
            .last_job
            .as_ref()
            .and_then(|last| last.failure.as_deref());
        if let Some(words) = failure.filter(|_| !is_running) {
            let again = next_start.map_or_else(String::new, |at| format!(" at {at}"));
            let words = sentence(words);
            return Some(Verdict::yes(
                self.failed(),
                format!(
                    "{left} What a rebuild has begun is not finished. Job {name} failed, and the \
                     next one starts{again}: {words}"
                ),
            ));
        }
        Some(Verdict::yes(
            self.rebuilding(),
            format!("{left} Job {name} finishes, or undoes, what a rebuild has begun."),
        ))
    }

    fn going_on(&self, name: &str, status: &IndexStatus, job: &RebuildJob) -> String {
        let (done, all) = (status.done, status.done + status.drifted);
        let (effect, progress, place) = match self.kind {
            JobKind::Reindex if self.policy() == OnIndexDrift::RebuildInPlace => (
                "Nothing finds the pages of a collection while it is rebuilt; ingestion goes on.",
                format!("Job {name} has rebuilt {done} of {all} collections."),
                "status.index",
            ),
            JobKind::Reindex => (
                "Searches and ingestion go on.",
                format!("Job {name} has rebuilt {done} of {all} collections."),
                "status.index",
            ),
            JobKind::Reembed => (
                "Documents of the others wait.",
                match self.report() {
                    None => format!("Job {name} looks for collections of another model."),
                    Some(_) => {
                        format!("Job {name} has embedded {done} of {all} collections again.")
                    }
                },
                "status.models",
            ),
        };
        let progress = match &job.waits {
            Some(words) => format!(
                "Job {name} has begun, and its pod does not run: {}",
                sentence(words)
            ),
            None => progress,
        };
        format!("{progress} {effect} {place} shows the progress.")
    }

    fn left(&self, status: &IndexStatus) -> String {
        let (drifted, all) = (status.drifted, status.collections);
        match (self.kind, drifted) {
            (JobKind::Reembed, _) if self.report().is_none() => {
                "Of which model the collections are is not known yet.".to_owned()
            }
            (JobKind::Reembed, 0) => "The collections are of the spec's model.".to_owned(),
            (JobKind::Reembed, _) => other_models(drifted, all),
            (JobKind::Reindex, 0) => "The indexes are those of the spec.".to_owned(),
            (JobKind::Reindex, 1) => {
                "The index of one collection differs from the spec.".to_owned()
            }
            (JobKind::Reindex, _) => {
                format!("The indexes of {drifted} of {all} collections differ from the spec.")
            }
        }
    }
}

fn other_models(count: i64, all: i64) -> String {
    format!("The vectors of {count} of {all} collections are of another model.")
}
