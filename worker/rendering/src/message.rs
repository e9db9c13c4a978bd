//! The form of a message between the worker and a renderer: `b"LR"`, version (1 byte), length of the
//! body (u32, little-endian) and body. The body is encoded by `postcard`; the images of a page follow
//! it as raw bytes.

use serde::Serialize;

/// Bytes before the body.
pub(super) const HEADER_BYTES: usize = 7;
const MAGIC: [u8; 2] = *b"LR";
const VERSION: u8 = 4;

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

pub(super) fn expect_images(found: &[u8], expected: u64) -> Result<(), ProtocolError> {
    let found = found.len();
    if found as u64 == expected {
        return Ok(());
    }
    Err(ProtocolError::Images { found, expected })
}

pub(super) fn encode(head: &impl Serialize, images: &[&[u8]]) -> Result<Vec<u8>, ProtocolError> {
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
