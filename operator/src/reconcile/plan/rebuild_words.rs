//! What the condition `VectorStoreReady` says about a rebuild. Pure.

use jiff::Timestamp;
use kube::ResourceExt;
use layra_crds::{IndexStatus, OnIndexDrift};

use super::{
    conditions::Verdict,
    rebuild::{Need, Situation},
    template::sentence,
};
use crate::{
    reconcile::{reason::Reason, rebuild_job::RebuildJob},
    resources::reindex_name,
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
            let rests = self.is_stalled
                || self.pipeline.spec.paused
                || self.report().is_none()
                || !need.has_work;
            if rests {
                return None;
            }
        }
        let left = left(status);
        let name = reindex_name(&self.pipeline.name_any());
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
                Reason::Rebuilding,
                self.going_on(&name, status, job),
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
                Reason::RebuildFailed,
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
            Reason::Rebuilding,
            format!("{left} Job {name} starts{again}."),
        ))
    }

    /// If drift is only reported: what a Job does that finishes, or undoes, what others have begun.
    fn finishing(
        &self,
        need: &Need,
        status: &IndexStatus,
        next_start: Option<Timestamp>,
    ) -> Option<Verdict> {
        self.world.indexes.as_ref().ok()?;
        if !need.is_unfinished || self.is_stalled || self.pipeline.spec.paused {
            return None;
        }
        let left = left(status);
        let name = reindex_name(&self.pipeline.name_any());
        let is_running = self.job().is_some_and(RebuildJob::is_running);
        let failure = status
            .last_job
            .as_ref()
            .and_then(|last| last.failure.as_deref());
        if let Some(words) = failure.filter(|_| !is_running) {
            let again = next_start.map_or_else(String::new, |at| format!(" at {at}"));
            let words = sentence(words);
            return Some(Verdict::yes(
                Reason::RebuildFailed,
                format!(
                    "{left} What a rebuild has begun is not finished. Job {name} failed, and the \
                     next one starts{again}: {words}"
                ),
            ));
        }
        Some(Verdict::yes(
            Reason::Rebuilding,
            format!("{left} Job {name} finishes, or undoes, what a rebuild has begun."),
        ))
    }

    fn going_on(&self, name: &str, status: &IndexStatus, job: &RebuildJob) -> String {
        let (done, all) = (status.done, status.done + status.drifted);
        let effect = match self.policy() {
            OnIndexDrift::RebuildInPlace => {
                "Nothing finds the pages of a collection while it is rebuilt; ingestion goes on."
            }
            _ => "Searches and ingestion go on.",
        };
        let progress = match &job.waits {
            Some(words) => format!(
                "Job {name} has begun, and its pod does not run: {}",
                sentence(words)
            ),
            None => format!("Job {name} has rebuilt {done} of {all} collections."),
        };
        format!("{progress} {effect} status.index shows the progress.")
    }
}

fn left(status: &IndexStatus) -> String {
    match status.drifted {
        0 => "The indexes are those of the spec.".to_owned(),
        1 => "The index of one collection differs from the spec.".to_owned(),
        drifted => format!(
            "The indexes of {drifted} of {} collections differ from the spec.",
            status.collections
        ),
    }
}
