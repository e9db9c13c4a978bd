//! What the doctor says, and what it looked at. Pure.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Pod, ResourceQuota};
use layra_crds::IngestionPipeline;
use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Severity {
    /// Something does not work.
    Problem,
    /// It works, with a restriction or a risk.
    Warning,
    /// Good to know; nothing is wrong.
    Note,
}

/// One sentence for what is so, and one for what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Finding {
    pub(super) severity: Severity,
    /// What it is about, for example `Secret s3`.
    pub(super) about: String,
    pub(super) what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) to_do: Option<String>,
}

impl Finding {
    pub(super) fn new(
        severity: Severity,
        about: impl Into<String>,
        what: impl Into<String>,
        to_do: impl Into<String>,
    ) -> Self {
        Self {
            severity,
            about: about.into(),
            what: what.into(),
            to_do: Some(to_do.into()).filter(|text| !text.is_empty()),
        }
    }
}

/// Something in the cluster, as far as this person may read it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Read<T> {
    /// Not allowed.
    #[default]
    Unread,
    /// There is none.
    Absent,
    Found(T),
}

impl<T> Read<T> {
    pub(super) fn found(&self) -> Option<&T> {
        match self {
            Self::Found(value) => Some(value),
            Self::Unread | Self::Absent => None,
        }
    }
}

/// A kind of object that pods take values from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    Secret,
    ConfigMap,
}

impl Source {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
        }
    }
}

/// The keys of a Secret or `ConfigMap` that have a value. The values are not kept.
pub(super) type Keys = BTreeSet<String>;

/// What was read about one pipeline.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) now: Timestamp,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) pipeline: IngestionPipeline,
    pub(super) deployment: Read<Deployment>,
    /// The workers.
    pub(super) pods: Vec<Pod>,
    /// Of the namespace, the warnings only.
    pub(super) events: Vec<Event>,
    /// Those that the object or the Deployment names.
    pub(super) sources: BTreeMap<(Source, String), Read<Keys>>,
    /// Kubernetes' quotas of the namespace.
    pub(super) quotas: Vec<ResourceQuota>,
    /// Operators that watch the namespace.
    pub(super) operators: Vec<Deployment>,
}

/// What was read about the installation.
#[derive(Clone, Debug)]
pub(super) struct Installation {
    pub(super) now: Timestamp,
    pub(super) namespace: String,
    /// The paths of the fields in the cluster's definition.
    pub(super) definition: Read<BTreeSet<String>>,
    pub(super) lease: Read<Lease>,
    /// Whether the lease was renewed while it was watched.
    pub(super) renewed: bool,
    /// Operators that watch the namespace.
    pub(super) operators: Read<Vec<Deployment>>,
}
