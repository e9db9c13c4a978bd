//! Documents to page images and text. Documents are hostile: each is opened by a child process
//! with limits and without credentials, and whatever happens there ends as a typed error here.
//! The process that uses this crate never parses a document itself. It knows no server.

mod encode;
mod error;
mod format;
mod frame;
mod geometry;
mod office;
mod office_format;
mod page_source;
mod pdf;
mod process;
mod protocol;
mod raster;
mod sandbox;
mod trial;

pub mod child;
pub mod office_child;

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub use encode::encode_png;
pub use error::RenderError;
pub use office::PREFIX as OFFICE_PREFIX;
use office::{Conversions, Converted};
use process::RenderProcess;
use protocol::{OpenRequest, Reply, Request};

/// How documents are rendered.
#[derive(Clone, Debug)]
pub struct RenderOptions {
    /// The PDFium library, `libpdfium.so`.
    pub pdfium: PathBuf,
    /// The program whose first argument may be `render-child` or `office-child`, and which then
    /// runs [`child::main`] or [`office_child::main`] before anything else.
    pub program: PathBuf,
    /// Time that opening a document, or one page, may take.
    pub page_timeout: Duration,
    /// Memory that one document may take in its renderer, in bytes. A quarter of it bounds the
    /// bitmap of a page: 640 MiB are enough for pages of the largest size.
    pub memory_limit_bytes: u64,
    /// Documents with more pages are refused.
    pub max_pages: u32,
    /// Renderers that compute at the same time: one core each. Two more documents may be open, in
    /// which a renderer waits for its turn.
    pub processes: usize,
    /// LibreOffice, `soffice.bin`. Where it is not there, office documents are refused.
    pub soffice: PathBuf,
    /// Where office documents are converted.
    pub scratch: PathBuf,
    /// Time that the conversion of an office document may take.
    pub office_timeout: Duration,
}

/// Where Debian's packages put LibreOffice.
pub const SOFFICE: &str = "/usr/lib/libreoffice/program/soffice.bin";

/// Open documents that are not parts of long ones, beyond those that keep all cores busy: a long
/// document does not hold up short ones.
const FOR_SHORT_ONES: usize = 2;

/// Opens documents, a limited number at a time. Clones share the limits.
#[derive(Clone, Debug)]
pub struct Renderer {
    options: Arc<RenderOptions>,
    /// Places of open documents.
    places: Arc<Semaphore>,
    /// Those of parts of long documents.
    places_of_parts: Arc<Semaphore>,
    /// Taken while a document is opened or a page is drawn, in the order of asking.
    cores: Arc<Semaphore>,
    conversions: Arc<Conversions>,
}

/// What a renderer says of a document.
enum Opened {
    Document(Box<RenderProcess>, u32),
    Office(office_format::OfficeDocument),
}

impl Renderer {
    /// A renderer that starts a process for each document; none is started yet.
    #[must_use]
    pub fn new(options: RenderOptions) -> Self {
        let processes = options.processes.max(1);
        Self {
            options: Arc::new(options),
            places: Arc::new(Semaphore::new(processes + FOR_SHORT_ONES)),
            places_of_parts: Arc::new(Semaphore::new(processes)),
            cores: Arc::new(Semaphore::new(processes)),
            conversions: Arc::default(),
        }
    }

    /// Opens a document in a process of its own, as soon as one may be started. The format is told
    /// by the content; a document of an office program is converted to PDF first.
    pub async fn open(&self, file: &Path) -> Result<Document, RenderError> {
        let place = permit(&self.places).await?;
        self.open_at(file, vec![place]).await
    }

    /// Opens a long document for a part of its pages. Fewer of these are open at a time.
    pub async fn open_part(&self, file: &Path) -> Result<Document, RenderError> {
        let place_of_part = permit(&self.places_of_parts).await?;
        let place = permit(&self.places).await?;
        self.open_at(file, vec![place_of_part, place]).await
    }

    async fn open_at(
        &self,
        file: &Path,
        places: Vec<OwnedSemaphorePermit>,
    ) -> Result<Document, RenderError> {
        let core = permit(&self.cores).await?;
        let file = std::path::absolute(file).map_err(|error| RenderError::Io(error.to_string()))?;
        let (process, pages, converted) = match self.start(&file).await? {
            Opened::Document(process, pages) => (process, pages, None),
            Opened::Office(found) => {
                let converted = self.conversions.get(&self.options, &file, found).await?;
                match self.start(&converted.path()).await? {
                    Opened::Document(process, pages) => (process, pages, Some(converted)),
                    Opened::Office(_) => return Err(unexpected("an office document of its own")),
                }
            }
        };
        drop(core);
        Ok(Document {
            state: State::Open(process),
            pages,
            page_timeout: self.options.page_timeout,
            cores: Arc::clone(&self.cores),
            _converted: converted,
            _places: places,
        })
    }

    async fn start(&self, file: &Path) -> Result<Opened, RenderError> {
        let options = &self.options;
        let mut process = RenderProcess::spawn(&options.program)?;
        let request = Request::Open(OpenRequest {
            pdfium: options.pdfium.as_os_str().as_bytes().to_vec(),
            document: file.as_os_str().as_bytes().to_vec(),
            max_pages: options.max_pages,
            memory_limit_bytes: options.memory_limit_bytes,
            page_timeout: options.page_timeout,
        });
        match process.exchange(&request, options.page_timeout).await? {
            Reply::Opened { pages, lacking } if (1..=options.max_pages).contains(&pages) => {
                report(&lacking);
                Ok(Opened::Document(Box::new(process), pages))
            }
            Reply::Opened { .. } => Err(unexpected("a number of pages that was not allowed")),
            Reply::Office(found) => Ok(Opened::Office(found)),
            Reply::Failed(error) => Err(error),
            Reply::Page(_) => Err(unexpected("a page before the document was open")),
        }
    }
}

async fn permit(of: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, RenderError> {
    let permit = Arc::clone(of).acquire_owned().await;
    permit.map_err(|_| RenderError::Unavailable("the renderer was closed".to_owned()))
}

/// Says once what this kernel lacks of the renderers' confinement.
fn report(lacking: &str) {
    static REPORTED: Once = Once::new();
    if !lacking.is_empty() {
        REPORTED.call_once(|| {
            tracing::warn!(lacking, "renderers are confined by less than they could be");
        });
    }
}

/// An open document. Dropping it ends its process.
#[derive(Debug)]
pub struct Document {
    state: State,
    pages: u32,
    page_timeout: Duration,
    cores: Arc<Semaphore>,
    /// The PDF is read while pages are drawn.
    _converted: Option<Converted>,
    _places: Vec<OwnedSemaphorePermit>,
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
        let _core = permit(&self.cores).await?;
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
            Ok(Reply::Opened { .. } | Reply::Office(_)) => {
                unexpected("that the document is open, once more")
            }
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
    /// Resolution. Pages of more than 40 million pixels, or 16 383 on a side, get a lower one;
    /// images are scaled down to the long side of A4 and never up.
    pub resolution: Resolution,
    /// Format of the page image.
    pub format: ImageFormat,
    /// Quality of WebP, 1 to 100.
    pub quality: u8,
    /// Whether the pixels are wanted too.
    pub pixels: bool,
}

/// Format of a page image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageFormat {
    /// Lossless.
    Png,
    /// Lossy and smaller.
    WebP,
}

/// How finely a page is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// So many dots per inch.
    Dpi(u32),
    /// The least that people can read and that gives a model its pixels: at least 100 dots per
    /// inch, at most 300.
    Auto {
        /// Most pixels of a page that the model looks at; 0 for one that does not look.
        pixels: u32,
    },
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
