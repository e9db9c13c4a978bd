//! Why a document or one of its pages could not be rendered. Every variant says whether the
//! document is to blame; what follows from that is the pipeline's decision.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Why a document or one of its pages could not be rendered.
///
/// Renderers send it to the worker, except for the variants that only the worker can determine.
/// Those come last: skipped variants shift the numbers of the ones behind them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum RenderError {
    /// A password is needed to open the document.
    #[error("the document is encrypted and needs a password")]
    Encrypted,

    /// The content violates its format beyond repair.
    #[error("the document is damaged: {0}")]
    Damaged(String),

    /// No bytes, or no pages.
    #[error("the document is empty: {0}")]
    Empty(String),

    /// More pages than the pipeline accepts.
    #[error("the document has {pages} pages, but the pipeline accepts at most {limit}")]
    TooManyPages {
        /// Pages of the document.
        pages: u32,
        /// Pages that the pipeline accepts.
        limit: u32,
    },

    /// An image with more pixels than can be decoded safely, or an office document that unpacks or
    /// converts to more than is allowed.
    #[error("the document is too large: {0}")]
    TooLarge(String),

    /// Neither a PDF nor an image of a known format.
    #[error("the format is not supported: {0}")]
    Unsupported(String),

    /// One page cannot be read; other pages of the document may be fine.
    #[error("page {} is damaged: {detail}", u64::from(*page) + 1)]
    DamagedPage {
        /// The page, counted from 0.
        page: u32,
        /// What failed.
        detail: String,
    },

    /// The caller asked for a page that the document does not have.
    #[error("page {} does not exist: the document has {pages} pages", u64::from(*page) + 1)]
    NoSuchPage {
        /// The page, counted from 0.
        page: u32,
        /// Pages of the document.
        pages: u32,
    },

    /// The document needs more memory than the renderer's limit.
    #[error("the document needs more memory than the renderer's limit")]
    OutOfMemory,

    /// The PDFium library cannot be loaded, or no renderer can be started.
    #[error("the renderer cannot be started: {0}")]
    Unavailable(String),

    /// The file cannot be read.
    #[error("the file cannot be read: {0}")]
    Io(String),

    /// The sandbox cannot be set up on this node, or lacks a layer that is required.
    #[error("documents cannot be opened safely: {0}")]
    SandboxUnavailable(String),

    /// Opening the document or rendering one page took too long; the renderer was killed.
    #[error("rendering timed out after {} s", limit.as_secs_f32())]
    #[serde(skip)]
    TimedOut {
        /// Time limit for one page.
        limit: Duration,
    },

    /// The document crashed the renderer.
    #[error("the renderer crashed: {0}")]
    #[serde(skip)]
    Crashed(String),

    /// The renderer's reply violates the protocol.
    #[error("the renderer sent an invalid reply: {0}")]
    #[serde(skip)]
    GarbledAnswer(String),

    /// Something else killed the renderer, for example the kernel when the node ran out of
    /// memory, or a person.
    #[error("the renderer was killed by signal {signal}")]
    #[serde(skip)]
    Killed {
        /// Number of the signal.
        signal: i32,
    },

    /// The time limit passed, but the renderer hardly computed: it was stopped, or starved of CPU
    /// or disk. It was killed.
    #[error(
        "rendering was given up after {} s, of which the renderer had the CPU for {} s",
        limit.as_secs_f32(), used.as_secs_f32()
    )]
    #[serde(skip)]
    Stalled {
        /// Time limit for one page.
        limit: Duration,
        /// CPU time that the renderer used.
        used: Duration,
    },

    /// The renderer reported that it cannot read the file, but the worker can read all of it. The
    /// renderer was killed.
    #[error("the renderer could not read the file, but the worker can: {0}")]
    #[serde(skip)]
    ReadRefuted(String),

    /// The system has no process, memory or descriptor left for another renderer.
    #[error("no renderer can be started at the moment: {0}")]
    #[serde(skip)]
    NoResources(String),
}

impl RenderError {
    /// A stable name of the cause, for metrics, headers and conditions.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Encrypted => "Encrypted",
            Self::Damaged(_) => "Damaged",
            Self::Empty(_) => "Empty",
            Self::TooManyPages { .. } => "TooManyPages",
            Self::TooLarge(_) => "TooLarge",
            Self::Unsupported(_) => "Unsupported",
            Self::DamagedPage { .. } => "DamagedPage",
            Self::NoSuchPage { .. } => "NoSuchPage",
            Self::TimedOut { .. } => "TimedOut",
            Self::Crashed(_) => "Crashed",
            Self::OutOfMemory => "OutOfMemory",
            Self::GarbledAnswer(_) => "GarbledAnswer",
            Self::Killed { .. } | Self::ReadRefuted(_) => "RendererKilled",
            Self::Stalled { .. } => "RendererStalled",
            Self::Unavailable(_) | Self::NoResources(_) => "RendererUnavailable",
            Self::SandboxUnavailable(_) => "SandboxUnavailable",
            Self::Io(_) => "Io",
        }
    }

    /// Whether the same document would most likely fail again, on any worker.
    #[must_use]
    pub fn is_document_fault(&self) -> bool {
        match self {
            Self::Encrypted
            | Self::Damaged(_)
            | Self::Empty(_)
            | Self::TooManyPages { .. }
            | Self::TooLarge(_)
            | Self::Unsupported(_)
            | Self::DamagedPage { .. }
            | Self::TimedOut { .. }
            | Self::Crashed(_)
            | Self::OutOfMemory
            | Self::GarbledAnswer(_) => true,
            Self::NoSuchPage { .. }
            | Self::Killed { .. }
            | Self::Stalled { .. }
            | Self::ReadRefuted(_)
            | Self::NoResources(_)
            | Self::Unavailable(_)
            | Self::SandboxUnavailable(_)
            | Self::Io(_) => false,
        }
    }

    /// The cause of an error before the renderer is confined. It has not read the document yet, so
    /// the document is never to blame.
    pub(super) fn before_the_document(self) -> Self {
        match self {
            Self::Killed { .. }
            | Self::Stalled { .. }
            | Self::ReadRefuted(_)
            | Self::NoResources(_)
            | Self::Unavailable(_)
            | Self::SandboxUnavailable(_)
            | Self::Io(_) => self,
            Self::OutOfMemory => Self::NoResources("the renderer ran out of memory".to_owned()),
            Self::TimedOut { limit } => Self::Stalled { limit, used: limit },
            other => Self::Unavailable(other.to_string()),
        }
    }

    /// The same with at most `limit` bytes of detail: a hostile renderer may send more.
    pub(super) fn shortened(mut self, limit: usize) -> Self {
        if let Self::Damaged(detail)
        | Self::Empty(detail)
        | Self::TooLarge(detail)
        | Self::Unsupported(detail)
        | Self::DamagedPage { detail, .. }
        | Self::Unavailable(detail)
        | Self::SandboxUnavailable(detail)
        | Self::Io(detail) = &mut self
        {
            detail.truncate(detail.floor_char_boundary(limit));
        }
        self
    }
}
