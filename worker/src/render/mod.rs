//! Documents to page images and text. Documents are hostile: each is opened by a child process
//! with limits and without credentials, and whatever happens there ends as a typed error here.
//! This module never parses a document itself.

mod encode;
mod error;
mod format;
mod frame;
mod geometry;
mod pdf;
mod process;
mod protocol;
mod raster;
mod sandbox;

pub mod child;

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use layra_crds::ImageFormat;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub(crate) use encode::encode_png;
pub use error::RenderError;
use process::RenderProcess;
use protocol::{OpenRequest, Reply, Request};

/// How documents are rendered.
#[derive(Clone, Debug)]
pub struct RenderOptions {
    /// The PDFium library, `libpdfium.so`.
    pub pdfium: PathBuf,
    /// The program with the `render-child` command: this one.
    pub worker_binary: PathBuf,
    /// Time that opening a document, or one page, may take.
    pub page_timeout: Duration,
    /// Memory that one document may take in its renderer, in bytes. A quarter of it bounds the
    /// bitmap of a page: 640 MiB are enough for pages of the largest size.
    pub memory_limit_bytes: u64,
    /// Documents with more pages are refused.
    pub max_pages: u32,
    /// Documents that are open at the same time. One renderer uses one core.
    pub processes: usize,
}

/// Opens documents, a limited number at a time. Clones share the limit.
#[derive(Clone, Debug)]
pub struct Renderer {
    options: Arc<RenderOptions>,
    slots: Arc<Semaphore>,
}

impl Renderer {
    /// A renderer that starts a process for each document; none is started yet.
    #[must_use]
    pub fn new(options: RenderOptions) -> Self {
        let slots = Arc::new(Semaphore::new(options.processes.max(1)));
        Self {
            options: Arc::new(options),
            slots,
        }
    }

    /// Opens a document in a process of its own, as soon as one may be started. The format is told
    /// by the content.
    pub async fn open(&self, file: &Path) -> Result<Document, RenderError> {
        let slots = Arc::clone(&self.slots);
        let slot = (slots.acquire_owned().await)
            .map_err(|_| RenderError::Unavailable("the renderer was closed".to_owned()))?;
        let file = std::path::absolute(file).map_err(|error| RenderError::Io(error.to_string()))?;
        let mut process = RenderProcess::spawn(&self.options.worker_binary)?;
        let request = Request::Open(OpenRequest {
            pdfium: self.options.pdfium.as_os_str().as_bytes().to_vec(),
            document: file.as_os_str().as_bytes().to_vec(),
            max_pages: self.options.max_pages,
            memory_limit_bytes: self.options.memory_limit_bytes,
            page_timeout: self.options.page_timeout,
        });
        match process
            .exchange(&request, self.options.page_timeout)
            .await?
        {
            Reply::Opened { pages } if (1..=self.options.max_pages).contains(&pages) => {
                let state = State::Open(Box::new(process));
                Ok(Document {
                    state,
                    pages,
                    page_timeout: self.options.page_timeout,
                    _slot: slot,
                })
            }
            Reply::Opened { .. } => Err(unexpected("a number of pages that was not allowed")),
            Reply::Failed(error) => Err(error),
            Reply::Page(_) => Err(unexpected("a page before the document was open")),
        }
    }
}

/// An open document. Dropping it ends its process.
#[derive(Debug)]
pub struct Document {
    state: State,
    pages: u32,
    page_timeout: Duration,
    _slot: OwnedSemaphorePermit,
}

#[derive(Debug)]
enum State {
    Open(Box<RenderProcess>),
    /// The process is gone; every further page fails for the same cause.
    Broken(RenderError),
}

impl Document {
    /// Pages of the document, at least 1.
    #[must_use]
    pub fn pages(&self) -> u32 {
        self.pages
    }

    /// The renderer's process, while it is alive.
    #[must_use]
    pub fn process_id(&self) -> Option<u32> {
        match &self.state {
            State::Open(process) => process.id(),
            State::Broken(_) => None,
        }
    }

    /// Renders one page. After an error that concerns the page alone other pages can still be
    /// rendered; otherwise every further call gives the same error.
    pub async fn render(&mut self, request: PageRequest) -> Result<RenderedPage, RenderError> {
        if request.page >= self.pages {
            return Err(RenderError::NoSuchPage {
                page: request.page,
                pages: self.pages,
            });
        }
        let process = match &mut self.state {
            State::Open(process) => process,
            State::Broken(error) => return Err(error.clone()),
        };
        let broken = match process
            .exchange(&Request::Render(request), self.page_timeout)
            .await
        {
            Ok(Reply::Page(page)) if page.page == request.page => return Ok(page),
            Ok(Reply::Failed(error)) => return Err(error),
            Ok(Reply::Page(_)) => unexpected("another page than asked for"),
            Ok(Reply::Opened { .. }) => unexpected("that the document is open, once more"),
            Err(error) => error,
        };
        self.state = State::Broken(broken.clone());
        Err(broken)
    }
}

fn unexpected(what: &str) -> RenderError {
    RenderError::GarbledAnswer(format!("it sent {what}"))
}

/// Which page, and as what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRequest {
    /// The page, counted from 0.
    pub page: u32,
    /// Resolution in dots per inch. Pages of more than 40 million pixels, or 16 383 on a side, get
    /// a lower one; images are scaled down to the long side of A4 and never up.
    pub dpi: u32,
    /// Format of the page image.
    pub format: ImageFormat,
    /// Quality of WebP, 1 to 100.
    pub quality: u8,
    /// Whether the pixels are wanted too.
    pub pixels: bool,
}

/// A page as image and text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenderedPage {
    /// The page, counted from 0.
    pub page: u32,
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// The page image as the bytes of a file.
    pub encoded: Bytes,
    /// The pixels when they were asked for: RGB, one byte each, row by row.
    pub pixels: Option<Bytes>,
    /// The text of the page in the document's order; empty for images.
    pub text: String,
}
