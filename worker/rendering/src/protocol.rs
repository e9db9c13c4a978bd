//! Messages between the worker and a renderer, over a pipe. Neither side trusts the other: both
//! check version and size before they allocate.
//!
//! The worker sends one request and reads one reply. The first request is `Open`, with two replies:
//! `Confined` before the renderer reads the document, and one afterwards. From then on the renderer
//! may be in the hands of the document, and the worker believes no more of a reply than it checks
//! in [`Reply::decode`].

use std::io::{Read, Write};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::message::{self, HEADER_BYTES, ProtocolError, body_length, expect_images};
use super::office_format::OfficeDocument;
use super::page_source::MAX_TEXT_BYTES;
use super::words::{MAX_WORDS, Word};
use super::{
    DocumentWarning, PageFacts, PageRequest, RenderError, RenderedPage, SandboxPolicy, encode,
    facts, geometry,
};

/// Largest body of a request, in bytes: two paths and a few numbers.
const MAX_REQUEST_BYTES: u32 = 16 * 1024;
/// Largest body of a reply, in bytes: the text of a page and its image, as PNG and as pixels, at
/// the largest size.
pub(super) const MAX_REPLY_BYTES: u32 = 256 * 1024 * 1024;
/// Longest text from a renderer that may end up in an error or a log, in bytes.
const MAX_DETAIL_BYTES: usize = 1024;

/// Longest name of a format, in bytes.
const MAX_FORMAT_BYTES: usize = 32;

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
        message::encode(self, &[])
            .expect("requests are short and every value of them can be encoded")
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
                message::encode(&head, &[])
            }
            Self::Opened(opened) => message::encode(&ReplyHead::Opened(opened.clone()), &[]),
            Self::Office(document) => message::encode(&ReplyHead::Office(*document), &[]),
            Self::Failed(error) => message::encode(&ReplyHead::Failed(error.clone()), &[]),
            Self::Words(words) => message::encode(&ReplyHead::Words(words.clone()), &[]),
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
                message::encode(&head, &[&page.encoded, pixels])
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
mod tests;
