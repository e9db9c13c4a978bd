//! Frames of the protocol between worker and renderer: a header and a body of bounded size.
//! What a body means is not known here.
//!
//! A frame is `b"LR"`, version (1 byte), kind (1 byte), length of the body (u32), body. Numbers
//! are little-endian; texts and byte strings carry their length as u32.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes before the body of a frame.
pub(super) const HEADER_BYTES: usize = 8;

const MAGIC: &[u8; 2] = b"LR";
const VERSION: u8 = 1;

/// A frame or a body that does not follow the protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ProtocolError {
    /// Not a frame of this protocol.
    #[error("the frame does not start with the protocol's magic bytes")]
    Magic,
    /// The other side is another build.
    #[error("protocol version {0}, this side speaks {VERSION}")]
    Version(u8),
    /// The body would be larger than agreed.
    #[error("a body of {0} bytes is announced, {1} are allowed")]
    TooLong(u32, u32),
    /// The kind of frame is not known.
    #[error("unknown kind {0}")]
    Kind(u8),
    /// The body does not hold what its kind demands.
    #[error("malformed body: {0}")]
    Body(&'static str),
}

/// The first bytes of a frame, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// What the body holds.
    pub(super) kind: u8,
    /// Length of the body in bytes.
    pub(super) length: u32,
}

impl Header {
    /// Reads a header and refuses a body of more than `limit` bytes.
    pub(super) fn parse(bytes: [u8; HEADER_BYTES], limit: u32) -> Result<Self, ProtocolError> {
        let [m0, m1, version, kind, l0, l1, l2, l3] = bytes;
        if [m0, m1] != *MAGIC {
            return Err(ProtocolError::Magic);
        }
        if version != VERSION {
            return Err(ProtocolError::Version(version));
        }
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        if length > limit {
            return Err(ProtocolError::TooLong(length, limit));
        }
        Ok(Self { kind, length })
    }
}

/// A frame that is being written.
pub(super) struct FrameWriter(BytesMut);

impl FrameWriter {
    /// A frame of this kind with an empty body, with room for `capacity` bytes.
    pub(super) fn new(kind: u8, capacity: usize) -> Self {
        let mut frame = BytesMut::with_capacity(HEADER_BYTES + capacity);
        frame.put_slice(MAGIC);
        frame.put_u8(VERSION);
        frame.put_u8(kind);
        frame.put_u32_le(0);
        Self(frame)
    }

    pub(super) fn u8(&mut self, value: u8) -> &mut Self {
        self.0.put_u8(value);
        self
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Self {
        self.0.put_u32_le(value);
        self
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Self {
        self.0.put_u64_le(value);
        self
    }

    /// A text or byte string of less than 4 GiB.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.u32(length(bytes));
        self.0.put_slice(bytes);
        self
    }

    /// The whole frame.
    pub(super) fn finish(mut self) -> Bytes {
        let body = length(&self.0[HEADER_BYTES..]);
        self.0[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&body.to_le_bytes());
        self.0.freeze()
    }
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("replies are bounded far below 4 GiB")
}

/// A body that is read from its start; every read checks what is left.
pub(super) struct BodyReader(pub(super) Bytes);

impl BodyReader {
    pub(super) fn u8(&mut self) -> Result<u8, ProtocolError> {
        self.0
            .try_get_u8()
            .map_err(|_| ProtocolError::Body("too short"))
    }

    pub(super) fn u32(&mut self) -> Result<u32, ProtocolError> {
        self.0
            .try_get_u32_le()
            .map_err(|_| ProtocolError::Body("too short"))
    }

    pub(super) fn u64(&mut self) -> Result<u64, ProtocolError> {
        self.0
            .try_get_u64_le()
            .map_err(|_| ProtocolError::Body("too short"))
    }

    pub(super) fn bytes(&mut self) -> Result<Bytes, ProtocolError> {
        let length = self.u32()? as usize;
        if length > self.0.len() {
            return Err(ProtocolError::Body("a length points past the end"));
        }
        Ok(self.0.split_to(length))
    }

    pub(super) fn text(&mut self) -> Result<String, ProtocolError> {
        let bytes = self.bytes()?;
        let text = str::from_utf8(&bytes).map_err(|_| ProtocolError::Body("text is not UTF-8"))?;
        Ok(text.to_owned())
    }

    pub(super) fn finish(self) -> Result<(), ProtocolError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(ProtocolError::Body("bytes left over"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_above_the_limit_is_refused_by_its_header() {
        let header = [b'L', b'R', VERSION, 1, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(
            Header::parse(header, 1000),
            Err(ProtocolError::TooLong(u32::MAX, 1000))
        );
    }

    #[test]
    fn another_version_is_refused() {
        let header = [b'L', b'R', VERSION + 1, 1, 0, 0, 0, 0];
        assert_eq!(
            Header::parse(header, 1),
            Err(ProtocolError::Version(VERSION + 1))
        );
    }

    #[test]
    fn a_string_that_claims_more_than_there_is_is_refused() {
        let mut body = BodyReader(Bytes::from_static(&[0xff, 0xff, 0xff, 0x7f, 1, 2]));
        assert_eq!(
            body.bytes(),
            Err(ProtocolError::Body("a length points past the end"))
        );
    }

    #[test]
    fn the_header_tells_the_length_of_the_body() {
        let mut frame = FrameWriter::new(9, 0);
        frame.u32(7).bytes(b"abc");
        let frame = frame.finish();
        let header = Header::parse(frame[..HEADER_BYTES].try_into().unwrap(), 100);
        assert_eq!(
            header,
            Ok(Header {
                kind: 9,
                length: 11
            })
        );
        assert_eq!(frame.len(), HEADER_BYTES + 11);
    }
}
