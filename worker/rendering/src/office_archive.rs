//! The archive of a document: its parts, and how large they unpack. Archives that would unpack to
//! more than any real document are refused here, before another program sees them. Runs in the
//! renderer.

use std::borrow::Cow;
use std::io::{self, BufReader, Read};

use flate2::read::DeflateDecoder;
use zip::{CompressionMethod, ZipArchive};

use super::RenderError;
use super::source::DocumentFile;

/// Largest unpacked size of all parts of a document, in bytes.
const MAX_UNPACKED_BYTES: u64 = 1 << 30;
/// Above this unpacked size, the compression ratio is limited: text of documents compresses ten to
/// thirty times.
const SUSPECT_BYTES: u64 = 64 << 20;
const MAX_RATIO: u64 = 100;
/// Largest number of parts of a document.
const MAX_PARTS: usize = 50_000;
/// Largest number of bytes read from one part to detect the format.
pub(super) const MAX_READ_BYTES: u64 = 4 << 20;

/// An archive of the parts of a document.
pub(super) struct Archive {
    zip: ZipArchive<BufReader<DocumentFile>>,
    packed: u64,
}

fn damaged(error: &dyn std::fmt::Display) -> RenderError {
    RenderError::Damaged(format!("ZIP: {error}"))
}

impl Archive {
    pub(super) fn open(file: DocumentFile) -> Result<Self, RenderError> {
        let packed = file.length();
        let zip = ZipArchive::new(BufReader::new(file)).map_err(|error| damaged(&error))?;
        if zip.len() > MAX_PARTS {
            return Err(RenderError::TooLarge(format!("{} parts", zip.len())));
        }
        Ok(Self { zip, packed })
    }

    /// Unpacks every part to measure it. An error if it is encrypted, or larger than is allowed.
    pub(super) fn measure(&mut self) -> Result<(), RenderError> {
        let mut unpacked = Unpacked {
            packed: self.packed,
            bytes: 0,
        };
        for index in 0..self.zip.len() {
            let part = self.zip.by_index_raw(index);
            let part = part.map_err(|error| damaged(&error))?;
            if part.encrypted() {
                return Err(RenderError::Encrypted);
            }
            let announced = part.size();
            unpacked.check(announced)?;
            let method = part.compression();
            let bytes = match method {
                CompressionMethod::Stored => unpacked.add(part)?,
                CompressionMethod::DEFLATE => unpacked.add(DeflateDecoder::new(part))?,
                other => {
                    let what = format!("a ZIP archive with compression method {other}");
                    return Err(RenderError::Unsupported(what));
                }
            };
            if bytes != announced {
                return Err(damaged(&format!(
                    "a part has {bytes} bytes, expected {announced}"
                )));
            }
        }
        Ok(())
    }

    /// Names of the parts.
    pub(super) fn names(&self) -> Vec<String> {
        let names = self.zip.file_names().flatten();
        names.map(Cow::into_owned).collect()
    }

    pub(super) fn has_part(&self, name: &str) -> bool {
        self.zip.index_for_name(name).is_some()
    }

    /// The content of a part, if it can be unpacked.
    pub(super) fn reader(&mut self, name: &str) -> Option<Box<dyn Read + '_>> {
        let index = self.zip.index_for_name(name)?;
        let part = self.zip.by_index_raw(index).ok()?;
        match part.compression() {
            CompressionMethod::Stored => Some(Box::new(part)),
            CompressionMethod::DEFLATE => Some(Box::new(DeflateDecoder::new(part))),
            _ => None,
        }
    }

    /// The first bytes of a part, at most `most`.
    pub(super) fn part(&mut self, name: &str, most: u64) -> Option<Vec<u8>> {
        let mut content = Vec::new();
        let part = self.reader(name)?;
        let read = part.take(most).read_to_end(&mut content);
        read.ok().map(|_| content)
    }
}

/// Unpacked size of an archive so far.
struct Unpacked {
    packed: u64,
    bytes: u64,
}

impl Unpacked {
    /// An error if `more` bytes would exceed a limit.
    fn check(&self, more: u64) -> Result<(), RenderError> {
        let bytes = self.bytes.saturating_add(more);
        let is_bomb = bytes > SUSPECT_BYTES && bytes / MAX_RATIO > self.packed;
        if bytes > MAX_UNPACKED_BYTES || is_bomb {
            return Err(RenderError::TooLarge(format!(
                "its {} bytes unpack to {} MiB or more",
                self.packed,
                bytes >> 20
            )));
        }
        Ok(())
    }

    /// Unpacks a part to measure its length.
    fn add(&mut self, mut part: impl Read) -> Result<u64, RenderError> {
        let mut buffer = vec![0; 64 << 10];
        let mut length = 0;
        loop {
            match part.read(&mut buffer) {
                Ok(0) => return Ok(length),
                Ok(read) => {
                    length += read as u64;
                    self.check(read as u64)?;
                    self.bytes += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(RenderError::Damaged(format!("ZIP: {error}"))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unpacked_size_and_compression_ratio_are_limited() {
        let unpacked = |packed, bytes| Unpacked { packed, bytes };
        assert!(unpacked(1000, 0).check(SUSPECT_BYTES).is_ok());
        assert!(unpacked(1000, SUSPECT_BYTES).check(1).is_err());
        assert!(unpacked(SUSPECT_BYTES, SUSPECT_BYTES).check(1).is_ok());
        assert!(
            unpacked(MAX_UNPACKED_BYTES, 0)
                .check(MAX_UNPACKED_BYTES + 1)
                .is_err()
        );
        assert!(unpacked(1, 1).check(u64::MAX).is_err());
    }
}
