//! Messages between the worker and a renderer, over a pipe. Neither side trusts the other: both
//! check version and size before they allocate.
//!
//! The worker sends one request and reads one reply. The first request is `Open`, with two replies:
//! `Confined` before the renderer reads the document, and one afterwards. From then on the renderer
//! may be in the hands of the document, and the worker believes no more of a reply than it checks
//! in [`Reply::decode`].
//!
//! A message is `b"LR"`, version (1 byte), length of the body (u32, little-endian) and body. The
//! body is encoded by `postcard`; the images of a page follow it as raw bytes.

use std::io::{Read, Write};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::office_format::OfficeDocument;
use super::page_source::MAX_TEXT_BYTES;
use super::words::{MAX_WORDS, Word};
use super::{
    DocumentWarning, PageFacts, PageRequest, RenderError, RenderedPage, SandboxPolicy, encode,
    facts, geometry,
};

/// Bytes before the body.
pub(super) const HEADER_BYTES: usize = 7;
/// Largest body of a request, in bytes: two paths and a few numbers.
const MAX_REQUEST_BYTES: u32 = 16 * 1024;
/// Largest body of a reply, in bytes: the text of a page and its image, as PNG and as pixels, at
/// the largest size.
pub(super) const MAX_REPLY_BYTES: u32 = 256 * 1024 * 1024;
/// Longest text from a renderer that may end up in an error or a log, in bytes.
const MAX_DETAIL_BYTES: usize = 1024;

const MAGIC: [u8; 2] = *b"LR";
const VERSION: u8 = 4;
/// Longest name of a format, in bytes.
const MAX_FORMAT_BYTES: usize = 32;

/// A message that does not follow the protocol.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ProtocolError {
    #[error("the message does not start with the protocol's magic bytes")]
    Magic,
    /// The other side is another build.
    #[error("protocol version {0}, expected {VERSION}")]
    Version(u8),
    #[error("a body of {length} bytes, the limit is {limit}")]
    TooLong { length: u32, limit: u32 },
    #[error("malformed body: {0}")]
    Body(#[from] postcard::Error),
    #[error("{found} bytes of images, expected {expected}")]
    Images { found: usize, expected: u64 },
    #[error("a page of {width} x {height} pixels")]
    Size { width: u32, height: u32 },
    #[error("a page image that is no PNG or WebP of the page's size")]
    Encoding,
    #[error("facts of a page that cannot be")]
    Facts,
    #[error("words of a page that cannot be")]
    Words,
}

/// What the renderer needs to know before it opens a document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OpenRequest {
    /// Path of libpdfium.so, as bytes.
    pub(super) pdfium: Vec<u8>,
    /// Path of the document, as bytes.
    pub(super) document: Vec<u8>,
    /// Documents with more pages are refused.
    pub(super) max_pages: u32,
    /// Memory that the renderer may map for the document, in bytes.
    pub(super) memory_limit_bytes: u64,
    /// CPU time limit for opening the document and for each page.
    pub(super) page_timeout: Duration,
    /// Whether the document may be opened without the whole sandbox.
    pub(super) sandbox: SandboxPolicy,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Request {
    /// Open a document; answered by `Confined`, and then by `Opened`, `Office` or `Failed`. A
    /// `Failed` in place of `Confined` comes from a renderer that has not opened the document.
    Open(OpenRequest),
    /// Render a page; answered by `Page` or `Failed`.
    Render(PageRequest),
    /// The words of a page; answered by `Words`.
    Words(u32),
}

/// What is known of a document once it is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OpenedDocument {
    pub(super) pages: u32,
    pub(super) warnings: Vec<DocumentWarning>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Reply {
    /// The renderer is in its sandbox, and will now open the document.
    Confined {
        /// Parts of the sandbox that this kernel does not support; empty if it supports all.
        sandbox_gaps: String,
        /// What the first bytes of the document say that it is.
        format: String,
    },
    /// The document is open.
    Opened(OpenedDocument),
    /// The document is an office document, which must be converted first.
    Office(OfficeDocument),
    Page(RenderedPage),
    /// The request failed; the renderer is still alive.
    Failed(RenderError),
    /// The words of a page.
    Words(Vec<Word>),
}

/// A reply without the bytes of its images.
#[derive(Serialize, Deserialize)]
enum ReplyHead {
    Opened(OpenedDocument),
    Office(OfficeDocument),
    Page {
        page: u32,
        width: u32,
        height: u32,
        text: String,
        facts: PageFacts,
        encoded_bytes: u32,
        has_pixels: bool,
    },
    Failed(RenderError),
    Confined {
        sandbox_gaps: String,
        format: String,
    },
    Words(Vec<Word>),
}

impl Request {
    /// The whole message.
    pub(super) fn encode(&self) -> Vec<u8> {
        encode(self, &[]).expect("requests are short and every value of them can be encoded")
    }

    fn decode(body: &[u8]) -> Result<Self, ProtocolError> {
        let (request, rest) = postcard::take_from_bytes(body)?;
        expect_images(rest, 0)?;
        Ok(request)
    }
}

impl Reply {
    /// The whole message. A page above the size limit becomes a failure.
    pub(super) fn encode(&self) -> Result<Vec<u8>, ProtocolError> {
        match self {
            Self::Confined {
                sandbox_gaps,
                format,
            } => {
                let (sandbox_gaps, format) = (sandbox_gaps.clone(), format.clone());
                let head = ReplyHead::Confined {
                    sandbox_gaps,
                    format,
                };
                encode(&head, &[])
            }
            Self::Opened(opened) => encode(&ReplyHead::Opened(opened.clone()), &[]),
            Self::Office(document) => encode(&ReplyHead::Office(*document), &[]),
            Self::Failed(error) => encode(&ReplyHead::Failed(error.clone()), &[]),
            Self::Words(words) => encode(&ReplyHead::Words(words.clone()), &[]),
            Self::Page(page) => {
                let pixels = page.pixels.as_deref().unwrap_or_default();
                let length = page.encoded.len() + page.text.len() + pixels.len() + 64;
                if length > MAX_REPLY_BYTES as usize {
                    return Self::Failed(RenderError::TooLarge(format!("{length} bytes"))).encode();
                }
                let head = ReplyHead::Page {
                    page: page.page,
                    width: page.width,
                    height: page.height,
                    text: page.text.clone(),
                    facts: page.facts.clone(),
                    encoded_bytes: u32::try_from(page.encoded.len()).unwrap_or(u32::MAX),
                    has_pixels: page.pixels.is_some(),
                };
                encode(&head, &[&page.encoded, pixels])
            }
        }
    }

    /// Decodes a body. Images share its memory. Texts are shortened, and a page must have a
    /// possible size and an image file of that size.
    pub(super) fn decode(body: &Bytes) -> Result<Self, ProtocolError> {
        let (head, rest) = postcard::take_from_bytes(body)?;
        let reply = match head {
            ReplyHead::Confined {
                mut sandbox_gaps,
                mut format,
            } => {
                sandbox_gaps.truncate(sandbox_gaps.floor_char_boundary(MAX_DETAIL_BYTES));
                format.truncate(format.floor_char_boundary(MAX_FORMAT_BYTES));
                Self::Confined {
                    sandbox_gaps,
                    format,
                }
            }
            ReplyHead::Opened(mut opened) => {
                facts::without_repetition(&mut opened.warnings);
                Self::Opened(opened)
            }
            ReplyHead::Office(document) => Self::Office(document),
            ReplyHead::Failed(error) => Self::Failed(error.shortened(MAX_DETAIL_BYTES)),
            ReplyHead::Words(words) => {
                let all = words.iter().all(Word::is_believable);
                if !all || words.len() > MAX_WORDS {
                    return Err(ProtocolError::Words);
                }
                Self::Words(words)
            }
            ReplyHead::Page {
                page,
                width,
                height,
                mut text,
                facts,
                encoded_bytes,
                has_pixels,
            } => {
                if !geometry::is_page_size(width, height) {
                    return Err(ProtocolError::Size { width, height });
                }
                let facts = facts.believable().ok_or(ProtocolError::Facts)?;
                text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES));
                let pixel_bytes = if has_pixels {
                    u64::from(width).saturating_mul(3 * u64::from(height))
                } else {
                    0
                };
                expect_images(rest, pixel_bytes.saturating_add(encoded_bytes.into()))?;
                let mut images = body.slice_ref(rest);
                let encoded = images.split_to(encoded_bytes as usize);
                let size = encode::header(&encoded).map(|(_, columns, rows)| (columns, rows));
                if size != Some((width, height)) {
                    return Err(ProtocolError::Encoding);
                }
                return Ok(Self::Page(RenderedPage {
                    page,
                    width,
                    height,
                    encoded,
                    pixels: has_pixels.then_some(images),
                    text,
                    facts,
                }));
            }
        };
        expect_images(rest, 0)?;
        Ok(reply)
    }
}

fn expect_images(found: &[u8], expected: u64) -> Result<(), ProtocolError> {
    let found = found.len();
    if found as u64 == expected {
        return Ok(());
    }
    Err(ProtocolError::Images { found, expected })
}

fn encode(head: &impl Serialize, images: &[&[u8]]) -> Result<Vec<u8>, ProtocolError> {
    let image_bytes: usize = images.iter().map(|image| image.len()).sum();
    let mut message = Vec::with_capacity(HEADER_BYTES + 256 + image_bytes);
    message.extend(MAGIC);
    message.push(VERSION);
    message.extend([0; 4]);
    let mut message = postcard::to_extend(head, message)?;
    for image in images {
        message.extend_from_slice(image);
    }
    let length = u32::try_from(message.len() - HEADER_BYTES).unwrap_or(u32::MAX);
    message[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&length.to_le_bytes());
    Ok(message)
}

/// Length of the body that follows this header; an error above `limit`.
pub(super) fn body_length(header: [u8; HEADER_BYTES], limit: u32) -> Result<u32, ProtocolError> {
    let [m0, m1, version, length @ ..] = header;
    if [m0, m1] != MAGIC {
        return Err(ProtocolError::Magic);
    }
    if version != VERSION {
        return Err(ProtocolError::Version(version));
    }
    let length = u32::from_le_bytes(length);
    if length > limit {
        return Err(ProtocolError::TooLong { length, limit });
    }
    Ok(length)
}

/// Reads one request; `None` when the worker has closed the pipe.
pub(super) fn read_request(input: &mut impl Read) -> std::io::Result<Option<Request>> {
    let mut header = [0; HEADER_BYTES];
    match input.read_exact(&mut header) {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let length = body_length(header, MAX_REQUEST_BYTES).map_err(std::io::Error::other)?;
    let mut body = vec![0; length as usize];
    input.read_exact(&mut body)?;
    Request::decode(&body)
        .map(Some)
        .map_err(std::io::Error::other)
}

/// Writes one reply.
pub(super) fn write_reply(output: &mut impl Write, reply: &Reply) -> std::io::Result<()> {
    output.write_all(&reply.encode().map_err(std::io::Error::other)?)?;
    output.flush()
}

#[cfg(test)]
mod tests {
    use super::super::office_format::OfficeFormat;
    use super::super::{ImageFormat, PageWarning, Resolution};
    use super::*;
    use proptest::prelude::*;

    fn body(reply: &Reply) -> Bytes {
        let message = Bytes::from(reply.encode().unwrap());
        let header = message[..HEADER_BYTES].try_into().unwrap();
        let body = message.slice(HEADER_BYTES..);
        assert_eq!(
            body_length(header, MAX_REPLY_BYTES).unwrap() as usize,
            body.len()
        );
        body
    }

    fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(any::<u8>(), 0..64)
    }

    fn any_request() -> impl Strategy<Value = Request> {
        let paths = (any_bytes(), any_bytes());
        let numbers = (any::<u32>(), any::<u64>(), any::<u32>());
        let open = (paths, numbers).prop_map(
            |((pdfium, document), (max_pages, memory_limit_bytes, milliseconds))| {
                Request::Open(OpenRequest {
                    pdfium,
                    document,
                    max_pages,
                    memory_limit_bytes,
                    page_timeout: Duration::from_millis(milliseconds.into()),
                    sandbox: SandboxPolicy::Required,
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
        let size = (1..5_u32, 1..5_u32);
        let page = (any::<u32>(), size, any_bytes(), ".*", any::<bool>()).prop_map(
            |(page, (width, height), rest, text, has_pixels)| {
                let encoded = [png_header(width, height), rest].concat();
                let pixels = has_pixels.then(|| vec![7; 3 * (width * height) as usize].into());
                Reply::Page(RenderedPage {
                    page,
                    width,
                    height,
                    encoded: encoded.into(),
                    pixels,
                    text,
                    facts: PageFacts::default(),
                })
            },
        );
        let failed = (0..11_u8, any::<u32>(), any::<u32>(), ".{0,40}").prop_map(
            |(kind, page, pages, detail)| {
                Reply::Failed(match kind {
                    0 => RenderError::Encrypted,
                    1 => RenderError::Damaged(detail),
                    2 => RenderError::Empty(detail),
                    3 => RenderError::TooManyPages { pages, limit: page },
                    4 => RenderError::Unsupported(detail),
                    5 => RenderError::DamagedPage { page, detail },
                    6 => RenderError::NoSuchPage { page, pages },
                    7 => RenderError::OutOfMemory,
                    8 => RenderError::Unavailable(detail),
                    9 => RenderError::TooLarge(detail),
                    _ => RenderError::Io(detail),
                })
            },
        );
        prop_oneof![
            (any::<u32>(), any::<bool>()).prop_map(|(pages, form)| Reply::Opened(OpenedDocument {
                pages,
                warnings: form
                    .then_some(DocumentWarning::XfaForm)
                    .into_iter()
                    .collect(),
            })),
            (".{0,40}", "[a-z0-9]{0,9}").prop_map(|(sandbox_gaps, format)| Reply::Confined {
                sandbox_gaps,
                format
            }),
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
            let read = read_request(&mut request.encode().as_slice()).unwrap();
            prop_assert_eq!(read, Some(request));
        }

        #[test]
        fn replies_survive_the_pipe(reply in any_reply()) {
            prop_assert_eq!(Reply::decode(&body(&reply)), Ok(reply));
        }

        #[test]
        fn a_truncated_body_is_refused(reply in any_reply(), keep in 0.0..1.0_f64) {
            let body = body(&reply);
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let kept = (body.len() as f64 * keep) as usize;
            prop_assert!(Reply::decode(&body.slice(..kept)).is_err());
        }

        #[test]
        fn a_body_with_trailing_bytes_is_refused(reply in any_reply()) {
            let body = [body(&reply).as_ref(), &[0]].concat();
            prop_assert!(Reply::decode(&body.into()).is_err());
        }

        #[test]
        fn any_bytes_are_a_message_or_an_error(body in any_bytes()) {
            let _ = Request::decode(&body);
            let _ = Reply::decode(&body.into());
        }
    }

    fn png_header(width: u32, height: u32) -> Vec<u8> {
        let mut file = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
        file.extend(width.to_be_bytes());
        file.extend(height.to_be_bytes());
        file
    }

    fn page(width: u32, height: u32, pixels: usize) -> Reply {
        Reply::Page(RenderedPage {
            page: 0,
            width,
            height,
            encoded: png_header(width, height).into(),
            pixels: Some(vec![0; pixels].into()),
            text: String::new(),
            facts: PageFacts::default(),
        })
    }

    #[test]
    fn pixels_that_do_not_fit_the_size_are_refused() {
        assert!(Reply::decode(&body(&page(2, 2, 12))).is_ok());
        for reply in [page(2, 2, 11), page(u32::MAX, u32::MAX, 3)] {
            assert!(Reply::decode(&body(&reply)).is_err());
        }
    }

    #[test]
    fn pages_of_an_impossible_size_are_refused() {
        for (width, height) in [(0, 5), (5, 0), (16_384, 1), (8000, 8000)] {
            let pixels = 3 * (width * height) as usize;
            assert_eq!(
                Reply::decode(&body(&page(width, height, pixels))),
                Err(ProtocolError::Size { width, height })
            );
        }
    }

    #[test]
    fn a_page_image_that_is_something_else_is_refused() {
        for encoded in [
            Bytes::new(),
            Bytes::from_static(b"<html><script>"),
            png_header(2, 3).into(),
        ] {
            let Reply::Page(page) = page(2, 2, 12) else {
                unreachable!("a page was built");
            };
            let reply = Reply::Page(RenderedPage { encoded, ..page });
            assert_eq!(Reply::decode(&body(&reply)), Err(ProtocolError::Encoding));
        }
    }

    #[test]
    fn facts_of_a_page_that_cannot_be_are_refused() {
        let sent = |facts: PageFacts| {
            let Reply::Page(page) = page(2, 2, 12) else {
                unreachable!("a page was built");
            };
            Reply::decode(&body(&Reply::Page(RenderedPage { facts, ..page })))
        };
        for (points, orientation) in [
            (Some((f32::NAN, 1.0)), 1),
            (Some((1.0, -1.0)), 1),
            (None, 0),
            (None, 9),
        ] {
            let facts = PageFacts {
                points,
                orientation,
                ..PageFacts::default()
            };
            assert_eq!(sent(facts), Err(ProtocolError::Facts));
        }
        let script = |name: &str| PageWarning::MissingGlyphs(name.to_owned());
        let warnings = vec![
            script("Hangul"),
            script("anything\nof a hostile renderer"),
            PageWarning::NoText,
            script("Hangul"),
        ];
        let Ok(Reply::Page(page)) = sent(PageFacts {
            warnings,
            ..PageFacts::default()
        }) else {
            panic!("a page arrives as a page");
        };
        assert_eq!(page.facts.warnings, [PageWarning::NoText, script("Hangul")]);
    }

    #[test]
    fn long_text_of_a_page_is_cut_off() {
        let Reply::Page(page) = page(2, 2, 12) else {
            unreachable!("a page was built");
        };
        let text = "é".repeat(MAX_TEXT_BYTES);
        let decoded = Reply::decode(&body(&Reply::Page(RenderedPage { text, ..page })));
        let Ok(Reply::Page(page)) = decoded else {
            panic!("a page arrives as a page");
        };
        assert_eq!(page.text.len(), MAX_TEXT_BYTES);
    }

    #[test]
    fn failures_that_only_the_worker_can_determine_are_not_sent() {
        let limit = Duration::from_secs(1);
        for error in [
            RenderError::Killed { signal: 9 },
            RenderError::TimedOut { limit },
            RenderError::Stalled { limit, used: limit },
            RenderError::NoResources("processes".into()),
        ] {
            assert!(Reply::Failed(error).encode().is_err());
        }
    }

    #[test]
    fn long_details_are_shortened_on_arrival() {
        let long = Reply::Failed(RenderError::Damaged("é".repeat(4000)));
        let Ok(Reply::Failed(RenderError::Damaged(detail))) = Reply::decode(&body(&long)) else {
            panic!("a failure arrives as a failure");
        };
        assert_eq!(detail, "é".repeat(MAX_DETAIL_BYTES / 2));
    }

    #[test]
    fn a_body_above_the_limit_is_refused_by_its_header() {
        let header = [b'L', b'R', VERSION, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(
            body_length(header, 1000),
            Err(ProtocolError::TooLong {
                length: u32::MAX,
                limit: 1000
            })
        );
    }

    #[test]
    fn another_version_is_refused() {
        let header = [b'L', b'R', VERSION + 1, 0, 0, 0, 0];
        assert_eq!(
            body_length(header, 1),
            Err(ProtocolError::Version(VERSION + 1))
        );
    }

    #[test]
    fn a_closed_pipe_ends_the_requests() {
        assert!(read_request(&mut [].as_slice()).unwrap().is_none());
    }
}
