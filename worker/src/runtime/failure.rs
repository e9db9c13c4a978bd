//! What can go wrong with a document, and what follows from it.
//!
//! A failure gets its class where it arises; everything above acts on the class and never on the
//! words of a message.

use std::fmt;

/// A step of a document's way through the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Reading and understanding the message.
    Intake,
    /// Getting the original.
    Fetch,
    /// Turning pages into images and text.
    Render,
    /// Turning pages into vectors.
    Embed,
    /// Writing to the object store.
    Objects,
    /// Writing to MongoDB.
    Mongodb,
    /// Writing to Milvus.
    Milvus,
    /// Writing a dead letter or forwarding a message.
    DeadLetter,
    /// Getting the model.
    Model,
}

impl Stage {
    /// The name used in metrics, logs and message headers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
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

/// What follows from a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A server is away, slow or refuses for now: try again until it works.
    Transient,
    /// This document cannot be processed: dead letter.
    Permanent,
    /// Workers die on this document: dead letter, too.
    Poison,
    /// The worker is configured wrongly: leave with the reason.
    Fatal,
    /// The work was called off (shutdown, or the partition moved): nothing is wrong with the
    /// document, and somebody else will do it.
    Stopped,
    /// Another worker has taken over the document: stop before the next write.
    Superseded,
    /// The file was deleted while it was worked on.
    Deleted,
}

impl Class {
    /// The name used in message headers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
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

/// A failure of one step, with its class and a stable reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{stage}: {reason}: {message}")]
pub struct Failure {
    /// What follows from it.
    pub class: Class,
    /// Where it arose.
    pub stage: Stage,
    /// A stable name in `CamelCase`, for headers, metrics and alerts.
    pub reason: &'static str,
    /// What a person needs to know, without any secret.
    pub message: String,
}

impl Failure {
    /// A failure that goes away by itself.
    pub fn transient(stage: Stage, reason: &'static str, message: impl fmt::Display) -> Self {
        Self::new(Class::Transient, stage, reason, message)
    }

    /// A failure of this document.
    pub fn permanent(stage: Stage, reason: &'static str, message: impl fmt::Display) -> Self {
        Self::new(Class::Permanent, stage, reason, message)
    }

    /// Workers die on this document.
    pub fn poison(stage: Stage, reason: &'static str, message: impl fmt::Display) -> Self {
        Self::new(Class::Poison, stage, reason, message)
    }

    /// A failure that only a person can end.
    pub fn fatal(stage: Stage, reason: &'static str, message: impl fmt::Display) -> Self {
        Self::new(Class::Fatal, stage, reason, message)
    }

    /// Whether the document is given up.
    #[must_use]
    pub fn rejects_document(&self) -> bool {
        matches!(self.class, Class::Permanent | Class::Poison)
    }

    /// The work was called off.
    #[must_use]
    pub fn stopped(stage: Stage) -> Self {
        Self::new(Class::Stopped, stage, "Stopped", "the work was called off")
    }

    /// Another worker has taken over the document.
    #[must_use]
    pub fn superseded(stage: Stage) -> Self {
        let message = "another worker has taken over the document";
        Self::new(Class::Superseded, stage, "Superseded", message)
    }

    /// The file was deleted while it was worked on.
    pub fn deleted(stage: Stage, message: impl fmt::Display) -> Self {
        Self::new(Class::Deleted, stage, "FileDeleted", message)
    }

    fn new(class: Class, stage: Stage, reason: &'static str, message: impl fmt::Display) -> Self {
        Self {
            class,
            stage,
            reason,
            message: message.to_string(),
        }
    }
}
