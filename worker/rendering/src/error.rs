//! Why a document or one of its pages could not be rendered. Every variant says whether the
//! document is to blame; nothing here decides what the pipeline does about it.

use std::time::Duration;

/// Why a document or one of its pages could not be rendered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RenderError {
    /// A password is needed to open the document.
    #[error("the document is encrypted and needs a password")]
    Encrypted,

    /// The content is not what its format demands, beyond repair.
    #[error("the document is damaged: {0}")]
    Damaged(String),

    /// No bytes, or no pages.
    #[error("the document is empty: {0}")]
    Empty(String),

    /// More pages than the pipeline accepts.
    #[error("the document has {pages} pages, the pipeline accepts {limit}")]
    TooManyPages {
        /// Pages of the document.
        pages: u32,
        /// Pages that the pipeline accepts.
        limit: u32,
    },

    /// An image with more pixels than can be decoded safely.
    #[error("the image is too large: {0}")]
    TooLarge(String),

    /// Neither a PDF nor an image of a known format.
    #[error("the format is not supported: {0}")]
    Unsupported(String),

    /// One page cannot be read; other pages of the document may be fine.
    #[error("page {} is damaged: {detail}", page + 1)]
    DamagedPage {
        /// The page, counted from 0.
        page: u32,
        /// What was tried.
        detail: String,
    },

    /// The caller asked for a page that the document does not have.
    #[error("there is no page {} in a document of {pages} pages", page + 1)]
    NoSuchPage {
        /// The page, counted from 0.
        page: u32,
        /// Pages of the document.
        pages: u32,
    },

    /// Opening the document or rendering one page took too long; the renderer was killed.
    #[error("rendering was given up after {} s", limit.as_secs_f32())]
    TimedOut {
        /// Time that one page may take.
        limit: Duration,
    },

    /// The renderer died of the document.
    #[error("the renderer crashed: {0}")]
    Crashed(String),

    /// The document needs more memory than the renderer may have.
    #[error("the document needs more memory than a renderer may have")]
    OutOfMemory,

    /// The renderer answered something that is no answer.
    #[error("the renderer gave no valid answer: {0}")]
    GarbledAnswer(String),

    /// Something else killed the renderer, for example the kernel when the node ran out of
    /// memory, or a person.
    #[error("the renderer was killed by signal {signal}")]
    Killed {
        /// Number of the signal.
        signal: i32,
    },

    /// The PDFium library cannot be used, or no renderer can be started.
    #[error("no renderer can be started: {0}")]
    Unavailable(String),

    /// The file cannot be read.
    #[error("the file cannot be read: {0}")]
    Io(String),
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
            Self::Killed { .. } => "RendererKilled",
            Self::Unavailable(_) => "RendererUnavailable",
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
            Self::NoSuchPage { .. } | Self::Killed { .. } | Self::Unavailable(_) | Self::Io(_) => {
                false
            }
        }
    }
}
