//! Renders documents to page images and text. Documents are hostile: each is opened by a child
//! process with limits and without credentials, and whatever happens there becomes a typed error
//! here. The process that uses this crate never parses a document itself. No servers are involved.

mod animation;
mod cpu_time;
mod encode;
mod epub;
mod error;
mod facts;
mod fonts;
mod format;
mod geometry;
mod groups;
mod jpeg2000;
mod memory;
mod message;
mod office;
mod office_archive;
mod office_format;
mod office_ole;
mod office_ole_pages;
mod office_pages;
mod office_rtf;
mod office_sheets;
mod office_watch;
mod office_xlsb;
mod office_xml;
mod page;
mod page_source;
mod pdf;
mod pdf_copy;
mod pdf_structure;
mod pdf_text;
mod process;
mod protocol;
mod raster;
mod renewal;
mod sandbox;
mod sandbox_check;
mod self_test;
mod source;
mod svg;
mod text_file;
mod text_html;
mod text_layout;
mod text_mail;
mod text_pages;
mod tiff_other;
mod tiff_pages;
mod trial;
mod words;

pub mod child;
pub mod office_child;

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub use encode::encode_png;
pub use error::RenderError;
pub use facts::{DocumentWarning, PageFacts, PageWarning};
use groups::Groups;
pub use memory::{RENDERER_LIMIT_BYTES, container_limit_bytes, renderer_count};
use office::Conversions;
pub use office::{Converted, PREFIX as OFFICE_PREFIX};
pub use page::{ImageFormat, PageRequest, RenderedPage, Resolution};
use process::RenderProcess;
use protocol::{OpenRequest, OpenedDocument, Reply, Request};
pub use sandbox::{SandboxPolicy, hide_memory};
pub use sandbox_check::{SandboxReport, check_sandbox};
pub use words::Word;

/// Programs, libraries and limits of rendering.
#[derive(Clone, Debug)]
pub struct RenderOptions {
    /// The PDFium library, `libpdfium.so`.
    pub pdfium: PathBuf,
    /// The program to start as a child process. If its first argument is `render-child` or
    /// `office-child`, it must run [`child::main`] or [`office_child::main`] before anything else.
    pub program: PathBuf,
    /// Time limit for opening a document and for each page.
    pub page_timeout: Duration,
    /// Memory that a renderer may use for its document, in bytes. The bitmap of a page may take a
    /// quarter of it: 640 MiB are enough for pages of the largest size.
    pub memory_limit_bytes: u64,
    /// Documents with more pages are refused.
    pub max_pages: u32,
    /// Renderers that compute at the same time, one core each. Two more documents may be open
    /// while their renderers wait.
    pub processes: usize,
    /// LibreOffice, `soffice.bin`. If it does not exist, office documents are refused.
    pub soffice: PathBuf,
    /// Directory in which office documents are converted.
    pub scratch: PathBuf,
    /// Time limit for the conversion of an office document.
    pub office_timeout: Duration,
    /// Whether documents may be opened where the kernel lacks a layer of the sandbox.
    pub sandbox: SandboxPolicy,
}

/// Path of LibreOffice in Debian's packages.
pub const SOFFICE: &str = "/usr/lib/libreoffice/program/soffice.bin";

/// Documents that may be open in addition to those that keep all cores busy. Page ranges cannot
/// take these slots, so a long document does not hold up short ones.
const EXTRA_SLOTS: usize = 2;

/// Opens a limited number of documents at a time. Clones share the limits.
#[derive(Clone, Debug)]
pub struct Renderer {
    options: Arc<RenderOptions>,
    /// One permit for each open document.
    slots: Arc<Semaphore>,
    /// A second permit for each one that is open for a page range.
    range_slots: Arc<Semaphore>,
    groups: Arc<Groups>,
    /// The places of the documents' group, if they belong to one.
    group: Option<Arc<Semaphore>>,
    /// Held while a document is opened or a page is drawn; granted in the order of requests.
    cores: Arc<Semaphore>,
    conversions: Arc<Conversions>,
}

/// What a document turned out to be.
enum Opened {
    Document(Box<RenderProcess>, OpenedDocument),
    /// With the CPU time that was used to find that out.
    Office(office_format::OfficeDocument, Duration),
}

impl Renderer {
    /// Creates a renderer. Its processes start later, one for each document.
    #[must_use]
    pub fn new(options: RenderOptions) -> Self {
        let processes = options.processes.max(1);
        Self {
            options: Arc::new(options),
            slots: Arc::new(Semaphore::new(processes + EXTRA_SLOTS)),
            range_slots: Arc::new(Semaphore::new(processes)),
            groups: Arc::new(Groups::sharing(processes + EXTRA_SLOTS)),
            group: None,
            cores: Arc::new(Semaphore::new(processes)),
            conversions: Arc::default(),
        }
    }

    /// The same renderer for the documents of a group: they leave a slot to those of other groups.
    #[must_use]
    pub fn for_group(&self, group: &str) -> Self {
        Self {
            group: Some(self.groups.places_of(group)),
            ..self.clone()
        }
    }

    /// Opens a document in its own process, as soon as a slot is free. The format is detected from
    /// the content; an office document is converted to PDF first.
    pub async fn open(&self, file: &Path) -> Result<Document, RenderError> {
        self.open_reporting(file, &mut String::new()).await
    }

    /// Opens a document as [`Self::open`] does. Writes the format's name to `format` as soon as it
    /// is known, also if the document cannot be opened.
    pub async fn open_reporting(
        &self,
        file: &Path,
        format: &mut String,
    ) -> Result<Document, RenderError> {
        let slots = self.slot(Vec::new()).await?;
        self.open_in(file, slots, format).await
    }

    /// Opens a long document for one of its page ranges. Fewer of these may be open at a time.
    pub async fn open_part(&self, file: &Path) -> Result<Document, RenderError> {
        let range_slot = permit(&self.range_slots).await?;
        let slots = self.slot(vec![range_slot]).await?;
        self.open_in(file, slots, &mut String::new()).await
    }

    /// Adds a slot to the permits of a document.
    async fn slot(
        &self,
        mut permits: Vec<OwnedSemaphorePermit>,
    ) -> Result<Vec<OwnedSemaphorePermit>, RenderError> {
        if let Some(group) = &self.group {
            permits.push(permit(group).await?);
        }
        permits.push(permit(&self.slots).await?);
        Ok(permits)
    }

    async fn open_in(
        &self,
        file: &Path,
        slots: Vec<OwnedSemaphorePermit>,
        format: &mut String,
    ) -> Result<Document, RenderError> {
        let core = permit(&self.cores).await?;
        let file = std::path::absolute(file).map_err(|error| RenderError::Io(error.to_string()))?;
        let mut charged = Duration::ZERO;
        let (process, opened, converted) = match start(&self.options, &file, format).await? {
            Opened::Document(process, opened) => (process, opened, None),
            Opened::Office(found, used) => {
                found.format.extension().clone_into(format);
                let converted = self.conversions.get(&self.options, &file, found).await?;
                charged += used + converted.take_used();
                match start(&self.options, &converted.path(), &mut String::new()).await? {
                    Opened::Document(process, opened) => (process, opened, Some(converted)),
                    Opened::Office(..) => {
                        return Err(unexpected("the converted PDF is an office document"));
                    }
                }
            }
        };
        drop(core);
        Ok(Document {
            charged: charged + process.charged(),
            state: State::Open(process),
            file: converted.as_ref().map_or(file, Converted::path),
            pages: opened.pages,
            format: format.clone(),
            warnings: opened.warnings,
            drawn: 0,
            options: Arc::clone(&self.options),
            cores: Arc::clone(&self.cores),
            converted,
            _slots: slots,
        })
    }
}

/// Starts a renderer for a document. Writes the format's name to `format` as soon as it is known.
async fn start(
    options: &RenderOptions,
    file: &Path,
    format: &mut String,
) -> Result<Opened, RenderError> {
    let mut process = RenderProcess::spawn(&options.program)?;
    let request = Request::Open(OpenRequest {
        pdfium: options.pdfium.as_os_str().as_bytes().to_vec(),
        document: file.as_os_str().as_bytes().to_vec(),
        max_pages: options.max_pages,
        memory_limit_bytes: options.memory_limit_bytes,
        page_timeout: options.page_timeout,
        sandbox: options.sandbox,
    });
    let confined = process.exchange(&request, options.page_timeout).await;
    match confined.map_err(RenderError::before_the_document)? {
        Reply::Confined {
            sandbox_gaps,
            format: found,
        } => {
            log_once(&sandbox_gaps);
            *format = found;
        }
        // The renderer is the worker's own program, and the document is not open yet.
        Reply::Failed(error) => return Err(error),
        _ => return Err(unexpected("another reply than its confinement").before_the_document()),
    }
    match process.next_reply(options.page_timeout).await? {
        Reply::Opened(opened) if (1..=options.max_pages).contains(&opened.pages) => {
            process.has_opened();
            Ok(Opened::Document(Box::new(process), opened))
        }
        Reply::Opened(_) => Err(unexpected("a number of pages outside the limits")),
        Reply::Office(found) => Ok(Opened::Office(found, process.charged())),
        Reply::Failed(error) => {
            process.kill().await;
            Err(believable(error, file).await)
        }
        Reply::Page(_) | Reply::Words(_) => Err(unexpected("a page before the document was open")),
        Reply::Confined { .. } => Err(unexpected("a second confinement")),
    }
}

/// What the worker believes of an error that a confined renderer reports. The renderer may be in
/// the hands of the document: nothing that it reports may end the worker, or be retried without
/// end.
async fn believable(error: RenderError, file: &Path) -> RenderError {
    match error {
        RenderError::Io(reported) => {
            let path = file.to_owned();
            let read = tokio::task::spawn_blocking(move || {
                std::io::copy(&mut std::fs::File::open(path)?, &mut std::io::sink())
            });
            match read.await {
                Ok(Err(found)) => RenderError::Io(found.to_string()),
                _ => RenderError::ReadRefuted(reported),
            }
        }
        RenderError::Unavailable(_)
        | RenderError::SandboxUnavailable(_)
        | RenderError::NoSuchPage { .. } => {
            unexpected(&format!("an error that cannot be: {error}"))
        }
        other => other,
    }
}

async fn permit(semaphore: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, RenderError> {
    let permit = Arc::clone(semaphore).acquire_owned().await;
    permit.map_err(|_| RenderError::Unavailable("the renderer was closed".to_owned()))
}

/// Logs once which parts of the sandbox this kernel does not support.
fn log_once(sandbox_gaps: &str) {
    static LOGGED: Once = Once::new();
    if !sandbox_gaps.is_empty() {
        LOGGED.call_once(|| {
            tracing::warn!(
                missing = sandbox_gaps,
                "renderer sandbox is incomplete on this kernel"
            );
        });
    }
}

/// An open document. Dropping it ends its process.
#[derive(Debug)]
pub struct Document {
    state: State,
    /// CPU time since the last call of `take_charged`.
    charged: Duration,
    /// What the renderer reads.
    file: PathBuf,
    pages: u32,
    /// The name of its format, of an office document before the conversion.
    format: String,
    warnings: Vec<DocumentWarning>,
    /// Pages that the present process has drawn.
    drawn: u32,
    options: Arc<RenderOptions>,
    cores: Arc<Semaphore>,
    /// Keeps the PDF of an office document: it is read while pages are drawn.
    converted: Option<Converted>,
    _slots: Vec<OwnedSemaphorePermit>,
}

#[derive(Debug)]
enum State {
    Open(Box<RenderProcess>),
    /// The process is gone; all further pages fail with the same error.
    Broken(RenderError),
}

impl Document {
    /// Pages of the document, at least 1.
    #[must_use]
    pub fn pages(&self) -> u32 {
        self.pages
    }

    /// The name of its format: `pdf`, `docx`, `png` and so on.
    #[must_use]
    pub fn format(&self) -> &str {
        &self.format
    }

    /// Whether it is a picture, and no document with text: also a TIFF with several pages.
    #[must_use]
    pub fn is_picture(&self) -> bool {
        format::is_picture(&self.format)
    }

    /// What a user should know about the document as a whole.
    #[must_use]
    pub fn warnings(&self) -> &[DocumentWarning] {
        &self.warnings
    }

    /// The PDF of an office document. While this lives, the document can be opened again without
    /// another conversion.
    #[must_use]
    pub fn converted(&self) -> Option<Converted> {
        self.converted.clone()
    }

    /// The renderer's process, while it is alive.
    #[must_use]
    pub fn process_id(&self) -> Option<u32> {
        match &self.state {
            State::Open(process) => process.id(),
            State::Broken(_) => None,
        }
    }

    /// Whether further pages can be rendered.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    /// CPU time for reading, converting and rendering the document since the last call. A page that
    /// exceeded the time limit counts with the whole limit, whether the time was used or not.
    pub fn take_charged(&mut self) -> Duration {
        std::mem::take(&mut self.charged)
    }

    /// Renders one page. A renderer that has grown is replaced before. After an error that concerns only this page, others can still be rendered;
    /// after any other error, all further calls return the same error.
    pub async fn render(&mut self, request: PageRequest) -> Result<RenderedPage, RenderError> {
        let (page, ()) = self.render_into(request, |_| async {}).await?;
        Ok(page)
    }

    /// Renders one page. Before the page leaves the renderer's memory, waits for `room` for its
    /// bytes in this process, without a time limit. Returns the page and the room.
    pub async fn render_into<Room, Waiting>(
        &mut self,
        request: PageRequest,
        room: impl FnOnce(usize) -> Waiting,
    ) -> Result<(RenderedPage, Room), RenderError>
    where
        Waiting: Future<Output = Room>,
    {
        if request.page >= self.pages {
            return Err(RenderError::NoSuchPage {
                page: request.page,
                pages: self.pages,
            });
        }
        let _core = permit(&self.cores).await?;
        self.renew_if_grown().await?;
        let (asked, limit) = (Request::Render(request), self.options.page_timeout);
        let (bytes, before) = loop {
            let process = self.open_process()?;
            let before = process.charged();
            match process.ask(Some(&asked), limit).await {
                // The pages before may have taken the memory.
                Err(RenderError::OutOfMemory) if self.drawn > 0 => self.renew().await?,
                begun => break (begun, before),
            }
        };
        self.drawn += 1;
        let process = self.open_process()?;
        let reply = match bytes {
            Ok(bytes) => {
                let room = room(bytes as usize).await;
                let reply = process.receive(bytes, limit).await;
                reply.map(|reply| (reply, room))
            }
            Err(error) => Err(error),
        };
        let used = process.charged().saturating_sub(before);
        self.charged += used;
        let broken = match reply {
            Ok((Reply::Page(page), room)) if page.answers(&request) => return Ok((page, room)),
            Ok((Reply::Page(_), _)) => unexpected("a page that was not requested"),
            Ok((Reply::Failed(error), _)) => match believable(error, &self.file).await {
                lie @ (RenderError::GarbledAnswer(_) | RenderError::ReadRefuted(_)) => lie,
                error => return Err(error),
            },
            Ok((Reply::Confined { .. } | Reply::Opened(_) | Reply::Office(_), _)) => {
                unexpected("a second reply to opening the document")
            }
            Ok((Reply::Words(_), _)) => unexpected("words that were not requested"),
            Err(error) => error,
        };
        self.state = State::Broken(broken.clone());
        Err(broken)
    }

    /// The words of a page and where they are drawn; none for an image, or if some of the page is
    /// hidden. After an error, all further calls return the same error.
    pub async fn words(&mut self, page: u32) -> Result<Vec<Word>, RenderError> {
        if page >= self.pages {
            let pages = self.pages;
            return Err(RenderError::NoSuchPage { page, pages });
        }
        let _core = permit(&self.cores).await?;
        let limit = self.options.page_timeout;
        let process = self.open_process()?;
        let before = process.charged();
        let reply = process.exchange(&Request::Words(page), limit).await;
        let used = process.charged().saturating_sub(before);
        self.charged += used;
        let broken = match reply {
            Ok(Reply::Words(words)) => return Ok(words),
            Ok(_) => unexpected("another reply than words"),
            Err(error) => error,
        };
        self.state = State::Broken(broken.clone());
        Err(broken)
    }
}

fn unexpected(what: &str) -> RenderError {
    RenderError::GarbledAnswer(format!("it sent {what}"))
}
