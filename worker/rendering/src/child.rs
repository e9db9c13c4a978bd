//! The renderer: a process that opens one document and draws its pages on request.
//!
//! The worker starts one for each document, with an empty environment. It treats the document as
//! hostile, never writes a file and never starts another process.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;

use super::encode::{self, Canvas};
use super::format::{self, Container, DocumentFormat};
use super::office_format::{self, OfficeDocument};
use super::office_ole;
use super::page_source::{Drawn, PageSource};
use super::pdf::{self, PdfSource};
use super::protocol::{OpenRequest, OpenedDocument, Reply, Request, read_request, write_reply};
use super::raster::{Codec, RasterDocument};
use super::source::DocumentFile;
use super::svg::SvgSource;
use super::text_pages::TextSource;
use super::{
    PageFacts, PageRequest, PageWarning, RenderError, RenderedPage, facts, sandbox, trial,
};

/// Runs a renderer on standard input and output until the worker closes them. Must be called
/// before the program opens anything or starts a thread.
#[must_use]
pub fn main() -> ExitCode {
    sandbox::close_inherited_descriptors();
    let arguments: Vec<String> = std::env::args().skip(2).collect();
    let result = match arguments.split_first() {
        Some((word, rest)) if word == "try" => sandbox::prepare().and_then(|()| trial::run(rest)),
        _ => serve(&mut std::io::stdin().lock(), &mut std::io::stdout().lock()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(input: &mut impl Read, output: &mut impl Write) -> std::io::Result<()> {
    let prepared = sandbox::prepare();
    let open = match read_request(input)? {
        None => return Ok(()),
        Some(Request::Open(open)) => open,
        Some(Request::Render(_) | Request::Words(_)) => {
            return Err(std::io::Error::other("no document is open"));
        }
    };
    if let Err(error) = prepared {
        return write_reply(output, &Reply::Failed(not_confined(&error)));
    }
    let document = Path::new(OsStr::from_bytes(&open.document));
    let format = match sniff(document) {
        Err(error) => return write_reply(output, &Reply::Failed(error)),
        Ok(format) => format,
    };
    let confine = |output: &mut _| confine(document, &open, format.name(), output);
    match format {
        DocumentFormat::Pdf => match pdf::bind(Path::new(OsStr::from_bytes(&open.pdfium))) {
            Err(error) => write_reply(output, &Reply::Failed(error)),
            Ok(pdfium) => {
                if !confine(output)? {
                    return Ok(());
                }
                let source = PdfSource::open(&pdfium, document, open.memory_limit_bytes);
                serve_pages(source, &open, input, output)
            }
        },
        DocumentFormat::Raster(format) => {
            if !confine(output)? {
                return Ok(());
            }
            let codec = Codec::Image(format);
            let source = RasterDocument::open(document, codec, open.memory_limit_bytes);
            serve_pages(source, &open, input, output)
        }
        DocumentFormat::Jpeg2000 => {
            if !confine(output)? {
                return Ok(());
            }
            let codec = Codec::Jpeg2000;
            let source = RasterDocument::open(document, codec, open.memory_limit_bytes);
            serve_pages(source, &open, input, output)
        }
        DocumentFormat::Svg => {
            if !confine(output)? {
                return Ok(());
            }
            let source = SvgSource::open(document, open.memory_limit_bytes);
            serve_pages(source, &open, input, output)
        }
        DocumentFormat::Text(kind) => {
            if !confine(output)? {
                return Ok(());
            }
            let (most, memory) = (open.max_pages, open.memory_limit_bytes);
            serve_pages(
                TextSource::open(document, kind, most, memory),
                &open,
                input,
                output,
            )
        }
        DocumentFormat::Epub => {
            if !confine(output)? {
                return Ok(());
            }
            let (most, memory) = (open.max_pages, open.memory_limit_bytes);
            serve_pages(
                TextSource::open_epub(document, most, memory),
                &open,
                input,
                output,
            )
        }
        DocumentFormat::Container(container) => {
            if !confine(output)? {
                return Ok(());
            }
            let found = inspect(document, container, open.max_pages);
            write_reply(output, &found.map_or_else(Reply::Failed, Reply::Office))
        }
    }
}

fn inspect(
    document: &Path,
    container: Container,
    max_pages: u32,
) -> Result<OfficeDocument, RenderError> {
    let file = DocumentFile::open(document)?;
    let failure = file.failure();
    let found = match container {
        Container::Zip => office_format::inspect_zip(file, max_pages),
        Container::Ole => office_ole::inspect(file, max_pages),
        Container::Flat => office_format::inspect_flat(file, max_pages),
        Container::Single(format) => office_format::inspect_single(file, format, max_pages),
    };
    // A part that could not be read may have been taken for one that is not there.
    failure.check().and(found)
}

/// Enters the sandbox and tells the worker. Returns whether the document may be opened.
fn confine(
    document: &Path,
    open: &OpenRequest,
    format: &str,
    output: &mut impl Write,
) -> std::io::Result<bool> {
    let gaps = sandbox::confine(document, open.memory_limit_bytes);
    let gaps = gaps.and_then(|gaps| sandbox::allow_cpu(open.page_timeout).map(|()| gaps));
    let reply = match gaps.map(|gaps| gaps.accepted_by(open.sandbox)) {
        Ok(Ok(sandbox_gaps)) => Reply::Confined {
            sandbox_gaps,
            format: format.to_owned(),
        },
        Ok(Err(refusal)) => Reply::Failed(RenderError::SandboxUnavailable(refusal)),
        Err(error) => Reply::Failed(not_confined(&error)),
    };
    write_reply(output, &reply)?;
    Ok(matches!(reply, Reply::Confined { .. }))
}

fn not_confined(error: &std::io::Error) -> RenderError {
    RenderError::SandboxUnavailable(format!("the sandbox cannot be set up: {error}"))
}

fn serve_pages(
    source: Result<impl PageSource, RenderError>,
    open: &OpenRequest,
    input: &mut impl Read,
    output: &mut impl Write,
) -> std::io::Result<()> {
    let (mut source, pages) = match source.and_then(|source| check_pages(source, open.max_pages)) {
        Ok(checked) => checked,
        Err(error) => return write_reply(output, &Reply::Failed(error)),
    };
    let warnings = source.warnings();
    write_reply(output, &Reply::Opened(OpenedDocument { pages, warnings }))?;
    let mut canvas = Canvas::default();
    while let Some(request) = read_request(input)? {
        sandbox::allow_cpu(open.page_timeout)?;
        let reply = match request {
            Request::Open(_) => {
                return Err(std::io::Error::other("a document is already open"));
            }
            Request::Render(request) => {
                let page = render(&mut source, request, &mut canvas);
                page.map_or_else(Reply::Failed, Reply::Page)
            }
            Request::Words(page) => Reply::Words(source.words(page)),
        };
        write_reply(output, &reply)?;
    }
    Ok(())
}

fn check_pages<S: PageSource>(source: S, limit: u32) -> Result<(S, u32), RenderError> {
    match source.pages() {
        0 => Err(RenderError::Empty("it has no pages".to_owned())),
        pages if pages > limit => Err(RenderError::TooManyPages { pages, limit }),
        pages => Ok((source, pages)),
    }
}

fn render(
    source: &mut impl PageSource,
    request: PageRequest,
    canvas: &mut Canvas,
) -> Result<RenderedPage, RenderError> {
    let pages = source.pages();
    if request.page >= pages {
        return Err(RenderError::NoSuchPage {
            page: request.page,
            pages,
        });
    }
    let drawn = source.draw(request.page, request.resolution, canvas)?;
    let is_uniform = canvas.is_uniform();
    canvas.put_on_paper()?;
    let encoded = encode::encode(canvas, request.format, request.quality)?.into();
    let pixels = request
        .pixels
        .then(|| std::mem::take(&mut canvas.rgb).into());
    encode::give_back(&mut canvas.rgb);
    let (width, height) = (canvas.width, canvas.height);
    Ok(RenderedPage {
        page: request.page,
        width,
        height,
        encoded,
        pixels,
        facts: facts(&drawn, is_uniform),
        text: drawn.text,
    })
}

fn facts(drawn: &Drawn, is_uniform: bool) -> PageFacts {
    let mut warnings: Vec<PageWarning> = drawn
        .missing_scripts
        .iter()
        .map(|script| PageWarning::MissingGlyphs(script.clone()))
        .collect();
    match (drawn.text.trim().is_empty(), is_uniform) {
        (true, true) => warnings.push(PageWarning::Blank),
        (true, false) => warnings.push(PageWarning::NoText),
        (false, _) => {}
    }
    facts::without_repetition(&mut warnings);
    PageFacts {
        points: drawn.points,
        orientation: drawn.orientation.max(1),
        warnings,
    }
}

fn sniff(document: &Path) -> Result<DocumentFormat, RenderError> {
    let mut start = Vec::with_capacity(format::SNIFF_BYTES);
    File::open(document)
        .and_then(|file| {
            file.take(format::SNIFF_BYTES as u64)
                .read_to_end(&mut start)
        })
        .map_err(|error| RenderError::Io(error.to_string()))?;
    if start.is_empty() {
        return Err(RenderError::Empty("the file has no bytes".to_owned()));
    }
    format::sniff(&start).map_err(|guess| RenderError::Unsupported(guess.to_owned()))
}
