//! What is shown of a pipeline. Pure.

use jiff::Timestamp;
use kube::ResourceExt;
use layra_crds::condition_types::{READY, RECONCILING, STALLED};
use layra_crds::{IngestionPipeline, IngestionPipelineStatus, ScalingMode, ScalingStatus};
use serde::Serialize;

use crate::conditions::{Concern, InWords, in_words};

/// A pipeline in one row.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) lag: Option<i64>,
    /// Some partitions were not read.
    pub(super) lag_is_lower_bound: bool,
    /// What the ready workers can do, by the speed that the operator has measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pages_per_second: Option<f64>,
    pub(super) ready_replicas: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) wanted_replicas: Option<i32>,
    #[serde(flatten)]
    pub(super) eta: Eta,
    pub(super) mode: ScalingMode,
    /// At the time of the last decision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) arriving_pages_per_second: Option<f64>,
    /// At the time of the last decision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) oldest_seconds: Option<f64>,
    pub(super) model: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) age_seconds: Option<i64>,
    pub(super) conditions: Vec<InWords>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum State {
    Ready,
    NotReady,
    InProgress,
    Stalled,
    Paused,
    /// `pause --stop-workers`.
    Stopped,
    Deleting,
    /// No operator has written a status.
    Unseen,
}

impl State {
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::NotReady => "not ready",
            Self::InProgress => "in progress",
            Self::Stalled => "stalled",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
            Self::Deleting => "deleting",
            Self::Unseen => "no operator",
        }
    }
}

/// When what waits now is searchable.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "eta")]
pub(super) enum Eta {
    /// Nothing waits.
    Nothing,
    /// At the present number of ready workers.
    Known { eta_seconds: u64 },
    /// Something waits, and no worker is ready.
    NoWorker,
    /// The backlog or the workers' speed is unknown.
    Unknown,
}

impl Row {
    pub(super) fn of(pipeline: &IngestionPipeline, now: Timestamp) -> Self {
        let status = pipeline.status.as_ref();
        let scaling = status.and_then(|status| status.scaling.as_ref());
        let inputs = scaling.and_then(|scaling| scaling.inputs.as_ref());
        let conditions = in_words(status);
        let ready = status.and_then(|status| status.ready_replicas).unwrap_or(0);
        let learned = scaling.and_then(|scaling| scaling.learned.as_ref());
        let capacity = learned.map(|learned| learned.pages_per_second * f64::from(ready));
        let lag = status.and_then(|status| status.lag);
        let created = pipeline.metadata.creation_timestamp.as_ref();
        Self {
            namespace: pipeline.namespace().unwrap_or_default(),
            name: pipeline.name_any(),
            state: state(pipeline, &conditions),
            lag,
            lag_is_lower_bound: conditions
                .iter()
                .any(|one| one.reason == "PartitionsUnread"),
            pages_per_second: capacity,
            ready_replicas: ready,
            wanted_replicas: wanted(pipeline, status, scaling),
            eta: eta(lag, backlog_pages(lag, scaling), ready, capacity),
            mode: pipeline.spec.scaling.mode,
            arriving_pages_per_second: inputs.and_then(|inputs| inputs.arriving_pages_per_second),
            oldest_seconds: inputs.and_then(|inputs| inputs.oldest_seconds),
            model: pipeline.spec.embedding.model.family.to_string(),
            age_seconds: created.map(|created| now.duration_since(created.0).as_secs()),
            conditions,
        }
    }

    /// The worst of its conditions.
    pub(super) fn concern(&self) -> Concern {
        let concerns = self.conditions.iter().map(|one| one.concern);
        concerns.max().unwrap_or(Concern::Fine)
    }
}

fn state(pipeline: &IngestionPipeline, conditions: &[InWords]) -> State {
    let is_true = |kind| {
        let mut all = conditions.iter();
        all.any(|one| one.kind == kind && one.status == "True")
    };
    if pipeline.metadata.deletion_timestamp.is_some() {
        State::Deleting
    } else if conditions.is_empty() {
        State::Unseen
    } else if pipeline.spec.paused {
        State::Paused
    } else if crate::pause::is_stopped(pipeline) {
        State::Stopped
    } else if is_true(STALLED) {
        State::Stalled
    } else if is_true(READY) {
        State::Ready
    } else if is_true(RECONCILING) {
        State::InProgress
    } else {
        State::NotReady
    }
}

/// The replicas that are to run now.
fn wanted(
    pipeline: &IngestionPipeline,
    status: Option<&IngestionPipelineStatus>,
    scaling: Option<&ScalingStatus>,
) -> Option<i32> {
    let existing = status.and_then(|status| status.replicas);
    let spec = &pipeline.spec.scaling;
    match spec.mode {
        _ if pipeline.spec.paused => existing,
        ScalingMode::Auto => scaling.map(|scaling| scaling.desired_replicas).or(existing),
        ScalingMode::Recommend => existing,
        ScalingMode::Manual => spec.replicas.or(existing),
    }
}

/// The pages of the present lag. The decision has pages for the lag of its time.
fn backlog_pages(lag: Option<i64>, scaling: Option<&ScalingStatus>) -> Option<f64> {
    let (lag, scaling) = (lag? as f64, scaling?);
    let inputs = scaling.inputs.as_ref();
    let then = inputs.and_then(|inputs| {
        let messages = inputs.documents? + inputs.ranges.unwrap_or(0);
        Some((messages as f64, inputs.pages?))
    });
    if let Some((messages, pages)) = then
        && messages > 0.0
    {
        return Some(lag * pages / messages);
    }
    Some(lag * scaling.learned.as_ref()?.pages_per_document)
}

fn eta(lag: Option<i64>, pages: Option<f64>, ready: i32, capacity: Option<f64>) -> Eta {
    match (lag, pages, capacity) {
        (Some(..=0), ..) => Eta::Nothing,
        (Some(_), ..) if ready == 0 => Eta::NoWorker,
        (Some(_), Some(pages), Some(speed)) if speed > 0.0 => {
            let seconds = (pages / speed).ceil().max(1.0);
            // Saturates.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let eta_seconds = seconds as u64;
            Eta::Known { eta_seconds }
        }
        _ => Eta::Unknown,
    }
}

#[cfg(test)]
#[path = "row_tests.rs"]
mod tests;
