//! Failures, with their consequences.
//!
//! A failure gets its class and reason where it arises. Callers act on these, never on the text of
//! a message.

use std::fmt;

pub(crate) use crate::runtime::reason::Reason;

/// A step in the processing of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Stage {
    /// Receiving and parsing the message.
    Intake,
    /// Fetching the original.
    Fetch,
    /// Rendering pages to images and text.
    Render,
    /// Computing vectors of pages.
    Embed,
    /// Writing to the object store.
    Objects,
    /// Writing to MongoDB.
    Mongodb,
    /// Writing to Milvus.
    Milvus,
    /// Sending a message: a dead letter, a task, page ranges, a foreign message.
    DeadLetter,
    /// Fetching and loading the model.
    Model,
}

impl Stage {
    /// The name used in metrics, logs and message headers.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Intake => "intake",
            Self::Fetch => "fetch",
            Self::Render => "render",
            Self::Embed => "embed",
            Self::Objects => "objects",
            Self::Mongodb => "mongodb",
            Self::Milvus => "milvus",
            Self::DeadLetter => "dead_letter",
            Self::Model => "model",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The consequence of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// A server is unavailable, slow or overloaded: retry until it succeeds.
    Transient,
    /// The document cannot be processed: send a dead letter.
    Permanent,
    /// Workers or renderers die on the document: send a dead letter.
    Poison,
    /// The worker cannot run, for example because of its configuration: exit with the reason.
    Fatal,
    /// The work was cancelled by a shutdown or a rebalance: the message will be redelivered.
    Stopped,
    /// Another worker has taken over the document: stop before the next write.
    Superseded,
    /// The file was deleted while it was processed.
    Deleted,
}

impl Class {
    /// The name used in message headers.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Permanent => "permanent",
            Self::Poison => "poison",
            Self::Fatal => "fatal",
            Self::Stopped => "stopped",
            Self::Superseded => "superseded",
            Self::Deleted => "deleted",
        }
    }
}

/// What a transient failure is about. It decides whether retries may end: see
/// [`Retry`](crate::runtime::retry::Retry).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The server is unavailable, slow, overloaded or not the leader. No document is to blame.
    Server,
    /// The server answers and refuses this request.
    Request,
}

/// A failure of one step.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{stage}: {reason}: {message}")]
pub(crate) struct Failure {
    pub(crate) class: Class,
    pub(crate) stage: Stage,
    pub(crate) reason: Reason,
    /// [`Cause::Request`] only for transient failures that another request would not have.
    pub(crate) cause: Cause,
    /// The details for people, without any secret.
    pub(crate) message: String,
}

impl Failure {
    /// A failure that retrying overcomes.
    pub(crate) fn transient(stage: Stage, reason: Reason, message: impl fmt::Display) -> Self {
        Self::new(Class::Transient, stage, reason, message)
    }

    /// A server answers and refuses this request. It is retried, because servers also refuse
    /// requests while they start or are being changed, and becomes permanent if it repeats.
    pub(crate) fn refused(stage: Stage, reason: Reason, message: impl fmt::Display) -> Self {
        Self {
            cause: Cause::Request,
            ..Self::transient(stage, reason, message)
        }
    }

    /// A failure that the document causes.
    pub(crate) fn permanent(stage: Stage, reason: Reason, message: impl fmt::Display) -> Self {
        Self::new(Class::Permanent, stage, reason, message)
    }

    /// A failure because workers or renderers die on the document.
    pub(crate) fn poison(stage: Stage, reason: Reason, message: impl fmt::Display) -> Self {
        Self::new(Class::Poison, stage, reason, message)
    }

    /// A failure that only a person can fix.
    pub(crate) fn fatal(stage: Stage, reason: Reason, message: impl fmt::Display) -> Self {
        Self::new(Class::Fatal, stage, reason, message)
    }

    /// Whether the document gets a dead letter.
    pub(crate) fn rejects_document(&self) -> bool {
        matches!(self.class, Class::Permanent | Class::Poison)
    }

    /// Whether the worker ends because of what it computed for a document, which may be the cause.
    /// Other fatal failures are about settings, a server or the node.
    pub(crate) fn may_be_the_documents(&self) -> bool {
        self.class == Class::Fatal && self.stage == Stage::Embed
    }

    /// The work was cancelled.
    pub(crate) fn stopped(stage: Stage) -> Self {
        Self::new(
            Class::Stopped,
            stage,
            Reason::Stopped,
            "the work was cancelled",
        )
    }

    /// Another worker has taken over the document.
    pub(crate) fn superseded(stage: Stage) -> Self {
        let message = "another worker has taken over the document";
        Self::new(Class::Superseded, stage, Reason::Superseded, message)
    }

    /// The file was deleted while it was processed.
    pub(crate) fn deleted(stage: Stage, message: impl fmt::Display) -> Self {
        Self::new(Class::Deleted, stage, Reason::FileDeleted, message)
    }

    fn new(class: Class, stage: Stage, reason: Reason, message: impl fmt::Display) -> Self {
        Self {
            class,
            stage,
            reason,
            cause: Cause::Server,
            message: message.to_string(),
        }
    }
}
