//! The language between the worker and a renderer: requests and replies over a pipe. Both sides
//! check version and size before they allocate, for neither trusts the other.
//!
//! The worker sends one request and reads one reply; the first request is `Open`.

use std::io::{Read, Write};
use std::time::Duration;

use bytes::Bytes;

use super::frame::{BodyReader, FrameWriter, HEADER_BYTES, Header, ProtocolError};
use super::office_format::{OfficeDocument, OfficeFormat};
use super::{ImageFormat, PageRequest, RenderError, RenderedPage, Resolution};

/// Largest body of a request, in bytes: two paths and a few numbers.
pub(super) const MAX_REQUEST_BYTES: u32 = 16 * 1024;
/// Largest body of a reply, in bytes: a page of the largest size as PNG and as pixels, and text.
pub(super) const MAX_REPLY_BYTES: u32 = 256 * 1024 * 1024;

/// What the renderer needs to know before it opens a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OpenRequest {
    /// Path of libpdfium.so, as bytes.
    pub(super) pdfium: Vec<u8>,
    /// Path of the document, as bytes.
    pub(super) document: Vec<u8>,
    /// Documents with more pages are refused.
    pub(super) max_pages: u32,
    /// Memory that the renderer may map for the document, in bytes.
    pub(super) memory_limit_bytes: u64,
    /// CPU time that opening, or one page, may take.
    pub(super) page_timeout: Duration,
}

/// What the worker asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Open a document; answered by `Opened` or `Failed`.
    Open(OpenRequest),
    /// Render a page; answered by `Page` or `Failed`.
    Render(PageRequest),
}

/// What the renderer answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// The document is open.
    Opened {
        /// Its pages.
        pages: u32,
        /// What the renderer's kernel lacks of the confinement; empty where it lacks nothing.
        lacking: String,
    },
    /// The document is one of an office program, to be converted first.
    Office(OfficeDocument),
    /// A rendered page.
    Page(RenderedPage),
    /// The request failed; the renderer is still there.
    Failed(RenderError),
}

impl Request {
    /// The whole frame.
    #[must_use]
    pub(super) fn encode(&self) -> Bytes {
        match self {
            Self::Open(open) => {
                let milliseconds = open.page_timeout.as_millis();
                let mut frame = FrameWriter::new(kind::OPEN, 256);
                frame
                    .bytes(&open.pdfium)
                    .bytes(&open.document)
                    .u32(open.max_pages)
                    .u64(open.memory_limit_bytes)
                    .u32(u32::try_from(milliseconds).unwrap_or(u32::MAX));
                frame.finish()
            }
            Self::Render(request) => {
                let mut frame = FrameWriter::new(kind::RENDER, 16);
                frame
                    .u32(request.page)
                    .u8(u8::from(matches!(
                        request.resolution,
                        Resolution::Auto { .. }
                    )))
                    .u32(match request.resolution {
                        Resolution::Dpi(number) | Resolution::Auto { pixels: number } => number,
                    })
                    .u8(match request.format {
                        ImageFormat::Png => 0,
                        ImageFormat::WebP => 1,
                    })
                    .u8(request.quality)
                    .u8(u8::from(request.pixels));
                frame.finish()
            }
        }
    }

    /// Reads a body of the kind that the header named.
    pub(super) fn decode(kind: u8, body: Bytes) -> Result<Self, ProtocolError> {
        let mut body = BodyReader(body);
        let request = match kind {
            kind::OPEN => Self::Open(OpenRequest {
                pdfium: body.bytes()?.to_vec(),
                document: body.bytes()?.to_vec(),
                max_pages: body.u32()?,
                memory_limit_bytes: body.u64()?,
                page_timeout: Duration::from_millis(u64::from(body.u32()?)),
            }),
            kind::RENDER => Self::Render(PageRequest {
                page: body.u32()?,
                resolution: match (body.u8()?, body.u32()?) {
                    (0, dpi) => Resolution::Dpi(dpi),
                    (1, pixels) => Resolution::Auto { pixels },
                    _ => return Err(ProtocolError::Body("unknown kind of resolution")),
                },
                format: match body.u8()? {
                    0 => ImageFormat::Png,
                    1 => ImageFormat::WebP,
                    _ => return Err(ProtocolError::Body("unknown image format")),
                },
                quality: body.u8()?,
                pixels: body.u8()? != 0,
            }),
            other => return Err(ProtocolError::Kind(other)),
        };
        body.finish()?;
        Ok(request)
    }
}

impl Reply {
    /// The whole frame. A page that would break the size limit becomes a failure.
    #[must_use]
    pub(super) fn encode(&self) -> Bytes {
        match self {
            Self::Opened { pages, lacking } => {
                let mut frame = FrameWriter::new(kind::OPENED, 8 + lacking.len());
                frame.u32(*pages).bytes(lacking.as_bytes());
                frame.finish()
            }
            Self::Office(OfficeDocument { format, encrypted }) => {
                let number = OfficeFormat::ALL.iter().position(|one| one == format);
                let number = number.and_then(|number| u8::try_from(number).ok());
                let mut frame = FrameWriter::new(kind::OFFICE, 2);
                frame.u8(number.unwrap_or(u8::MAX)).u8(u8::from(*encrypted));
                frame.finish()
            }
            Self::Page(page) => {
                let pixels = page.pixels.as_deref().unwrap_or_default();
                let length = page.encoded.len() + page.text.len() + pixels.len() + 32;
                if length > MAX_REPLY_BYTES as usize {
                    return Self::Failed(RenderError::TooLarge(format!("{length} bytes"))).encode();
                }
                let mut frame = FrameWriter::new(kind::PAGE, length);
                frame
                    .u32(page.page)
                    .u32(page.width)
                    .u32(page.height)
                    .bytes(page.text.as_bytes())
                    .bytes(&page.encoded)
                    .u8(u8::from(page.pixels.is_some()))
                    .bytes(pixels);
                frame.finish()
            }
            Self::Failed(error) => {
                let mut frame = FrameWriter::new(kind::FAILED, 64);
                put_error(&mut frame, error);
                frame.finish()
            }
        }
    }

    /// Reads a body of the kind that the header named; images share the body's memory.
    pub(super) fn decode(kind: u8, body: Bytes) -> Result<Self, ProtocolError> {
        let mut body = BodyReader(body);
        let reply = match kind {
            kind::OPENED => Self::Opened {
                pages: body.u32()?,
                lacking: body.text()?,
            },
            kind::OFFICE => {
                let format = OfficeFormat::ALL.get(usize::from(body.u8()?)).copied();
                Self::Office(OfficeDocument {
                    format: format.ok_or(ProtocolError::Body("unknown office format"))?,
                    encrypted: body.u8()? != 0,
                })
            }
            kind::PAGE => {
                let (page, width, height) = (body.u32()?, body.u32()?, body.u32()?);
                let text = body.text()?;
                let encoded = body.bytes()?;
                let has_pixels = body.u8()? != 0;
                let pixels = body.bytes()?;
                if has_pixels && pixels.len() as u64 != 3 * u64::from(width) * u64::from(height) {
                    return Err(ProtocolError::Body("pixels do not fit the page's size"));
                }
                let pixels = has_pixels.then_some(pixels);
                Self::Page(RenderedPage {
                    page,
                    width,
                    height,
                    encoded,
                    pixels,
                    text,
                })
            }
            kind::FAILED => Self::Failed(take_error(&mut body)?),
            other => return Err(ProtocolError::Kind(other)),
        };
        body.finish()?;
        Ok(reply)
    }
}

/// Reads one request; `None` when the worker has closed the pipe.
pub(super) fn read_request(input: &mut impl Read) -> std::io::Result<Option<Request>> {
    let mut header = [0; HEADER_BYTES];
    match input.read_exact(&mut header) {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let header = Header::parse(header, MAX_REQUEST_BYTES).map_err(std::io::Error::other)?;
    let mut body = vec![0; header.length as usize];
    input.read_exact(&mut body)?;
    Request::decode(header.kind, body.into())
        .map(Some)
        .map_err(std::io::Error::other)
}

/// Writes one reply.
pub(super) fn write_reply(output: &mut impl Write, reply: &Reply) -> std::io::Result<()> {
    output.write_all(&reply.encode())?;
    output.flush()
}

mod kind {
    pub(super) const OPEN: u8 = 1;
    pub(super) const RENDER: u8 = 2;
    pub(super) const OPENED: u8 = 65;
    pub(super) const PAGE: u8 = 66;
    pub(super) const FAILED: u8 = 67;
    pub(super) const OFFICE: u8 = 68;
}

/// Failures that a renderer can tell of itself: code, two numbers, a text.
fn put_error(frame: &mut FrameWriter, error: &RenderError) {
    let text = error.to_string();
    let (code, a, b, text) = match error {
        RenderError::Encrypted => (1, 0, 0, ""),
        RenderError::Damaged(detail) => (2, 0, 0, detail.as_str()),
        RenderError::Empty(detail) => (3, 0, 0, detail.as_str()),
        RenderError::TooManyPages { pages, limit } => (4, *pages, *limit, ""),
        RenderError::TooLarge(detail) => (5, 0, 0, detail.as_str()),
        RenderError::Unsupported(detail) => (6, 0, 0, detail.as_str()),
        RenderError::DamagedPage { page, detail } => (7, *page, 0, detail.as_str()),
        RenderError::NoSuchPage { page, pages } => (8, *page, *pages, ""),
        RenderError::OutOfMemory => (9, 0, 0, ""),
        RenderError::Unavailable(detail) => (10, 0, 0, detail.as_str()),
        RenderError::Io(detail) => (11, 0, 0, detail.as_str()),
        RenderError::TimedOut { .. }
        | RenderError::Crashed(_)
        | RenderError::GarbledAnswer(_)
        | RenderError::Killed { .. } => (12, 0, 0, text.as_str()),
    };
    frame
        .u8(code)
        .u32(a)
        .u32(b)
        .bytes(truncated(text, 1024).as_bytes());
}

fn take_error(body: &mut BodyReader) -> Result<RenderError, ProtocolError> {
    let (code, a, b) = (body.u8()?, body.u32()?, body.u32()?);
    let detail = body.text()?;
    Ok(match code {
        1 => RenderError::Encrypted,
        2 => RenderError::Damaged(detail),
        3 => RenderError::Empty(detail),
        4 => RenderError::TooManyPages { pages: a, limit: b },
        5 => RenderError::TooLarge(detail),
        6 => RenderError::Unsupported(detail),
        7 => RenderError::DamagedPage { page: a, detail },
        8 => RenderError::NoSuchPage { page: a, pages: b },
        9 => RenderError::OutOfMemory,
        10 => RenderError::Unavailable(detail),
        11 => RenderError::Io(detail),
        12 => RenderError::Crashed(detail),
        _ => return Err(ProtocolError::Body("unknown failure")),
    })
}

/// The longest start of `text` that has at most `limit` bytes.
fn truncated(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header_and_body(frame: &Bytes, limit: u32) -> (Header, Bytes) {
        let header = Header::parse(frame[..HEADER_BYTES].try_into().unwrap(), limit).unwrap();
        (header, frame.slice(HEADER_BYTES..))
    }

    fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(any::<u8>(), 0..64)
    }

    fn any_request() -> impl Strategy<Value = Request> {
        let open = (
            any_bytes(),
            any_bytes(),
            any::<u32>(),
            any::<u64>(),
            any::<u32>(),
        )
            .prop_map(
                |(pdfium, document, max_pages, memory_limit_bytes, milliseconds)| {
                    let page_timeout = Duration::from_millis(u64::from(milliseconds));
                    Request::Open(OpenRequest {
                        pdfium,
                        document,
                        max_pages,
                        memory_limit_bytes,
                        page_timeout,
                    })
                },
            );
        let format = prop_oneof![Just(ImageFormat::Png), Just(ImageFormat::WebP)];
        let resolution = prop_oneof![
            any::<u32>().prop_map(Resolution::Dpi),
            any::<u32>().prop_map(|pixels| Resolution::Auto { pixels })
        ];
        let render = (any::<u32>(), resolution, format, any::<u8>(), any::<bool>()).prop_map(
            |(page, resolution, format, quality, pixels)| {
                Request::Render(PageRequest {
                    page,
                    resolution,
                    format,
                    quality,
                    pixels,
                })
            },
        );
        prop_oneof![open, render]
    }

    fn any_reply() -> impl Strategy<Value = Reply> {
        let page = (
            any::<u32>(),
            1..5_u32,
            1..5_u32,
            any_bytes(),
            ".*",
            any::<bool>(),
        )
            .prop_map(|(page, width, height, encoded, text, has_pixels)| {
                let pixels = has_pixels.then(|| vec![7; 3 * (width * height) as usize].into());
                let encoded = encoded.into();
                Reply::Page(RenderedPage {
                    page,
                    width,
                    height,
                    encoded,
                    pixels,
                    text,
                })
            });
        let failed =
            (0..9_u8, any::<u32>(), any::<u32>(), ".{0,40}").prop_map(|(kind, a, b, text)| {
                Reply::Failed(match kind {
                    0 => RenderError::Encrypted,
                    1 => RenderError::Damaged(text),
                    2 => RenderError::Empty(text),
                    3 => RenderError::TooManyPages { pages: a, limit: b },
                    4 => RenderError::Unsupported(text),
                    5 => RenderError::DamagedPage {
                        page: a,
                        detail: text,
                    },
                    6 => RenderError::NoSuchPage { page: a, pages: b },
                    7 => RenderError::OutOfMemory,
                    _ => RenderError::Unavailable(text),
                })
            });
        prop_oneof![
            (any::<u32>(), ".{0,40}").prop_map(|(pages, lacking)| Reply::Opened { pages, lacking }),
            (0..OfficeFormat::ALL.len(), any::<bool>()).prop_map(|(format, encrypted)| {
                let format = OfficeFormat::ALL[format];
                Reply::Office(OfficeDocument { format, encrypted })
            }),
            page,
            failed
        ]
    }

    proptest! {
        #[test]
        fn requests_survive_the_pipe(request in any_request()) {
            let read = read_request(&mut request.encode().as_ref()).unwrap();
            prop_assert_eq!(read, Some(request));
        }

        #[test]
        fn replies_survive_the_pipe(reply in any_reply()) {
            let (header, body) = header_and_body(&reply.encode(), MAX_REPLY_BYTES);
            prop_assert_eq!(header.length as usize, body.len());
            prop_assert_eq!(Reply::decode(header.kind, body), Ok(reply));
        }

        #[test]
        fn a_cut_body_is_refused(reply in any_reply(), keep in 0.0..1.0_f64) {
            let (header, body) = header_and_body(&reply.encode(), MAX_REPLY_BYTES);
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let kept = (body.len() as f64 * keep) as usize;
            prop_assert!(Reply::decode(header.kind, body.slice(..kept)).is_err());
        }

        #[test]
        fn any_bytes_are_an_answer_or_an_error(kind: u8, body in any_bytes()) {
            let _ = Reply::decode(kind, body.clone().into());
            let _ = Request::decode(kind, body.into());
        }
    }

    #[test]
    fn pixels_that_do_not_fit_the_size_are_refused() {
        let page = RenderedPage {
            page: 0,
            width: 2,
            height: 2,
            encoded: Bytes::new(),
            pixels: Some(vec![0; 11].into()),
            text: String::new(),
        };
        let (header, body) = header_and_body(&Reply::Page(page).encode(), MAX_REPLY_BYTES);
        assert!(Reply::decode(header.kind, body).is_err());
    }

    #[test]
    fn a_closed_pipe_ends_the_requests() {
        assert!(read_request(&mut [].as_slice()).unwrap().is_none());
    }
}
