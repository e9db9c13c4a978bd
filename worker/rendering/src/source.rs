//! The file of a document. It remembers whether the system failed to read it: decoders report such
//! a failure in many ways, and report damaged content as a failure to read.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::RenderError;

/// A document that is read by decoders. Clones share the file, not the position.
#[derive(Clone, Debug)]
pub(super) struct DocumentFile {
    file: Arc<File>,
    length: u64,
    position: u64,
    /// Bytes that a reader finds in place of the file's first ones.
    start: Vec<u8>,
    failure: ReadFailure,
}

/// The first failure of the system to read the document, shared with everything that reads it.
#[derive(Clone, Debug, Default)]
pub(super) struct ReadFailure(Arc<OnceLock<String>>);

impl ReadFailure {
    /// An error if the document could not be read at some time.
    pub(super) fn check(&self) -> Result<(), RenderError> {
        match self.0.get() {
            Some(failure) => Err(RenderError::Io(failure.clone())),
            None => Ok(()),
        }
    }

    /// The cause of `error`: the system, if it failed to read the document, else the content.
    pub(super) fn or(&self, error: RenderError) -> RenderError {
        self.check().err().unwrap_or(error)
    }
}

impl DocumentFile {
    pub(super) fn open(path: &Path) -> Result<Self, RenderError> {
        let open = || {
            let file = File::open(path)?;
            let length = file.metadata()?.len();
            Ok((file, length))
        };
        let (file, length) =
            open().map_err(|error: io::Error| RenderError::Io(error.to_string()))?;
        Ok(Self {
            file: Arc::new(file),
            length,
            position: 0,
            start: Vec::new(),
            failure: ReadFailure::default(),
        })
    }

    /// The same document from its beginning, which is replaced by `start`.
    pub(super) fn starting_with(&self, start: Vec<u8>) -> Self {
        Self {
            position: 0,
            start,
            ..self.clone()
        }
    }

    /// Bytes of the file.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn failure(&self) -> ReadFailure {
        self.failure.clone()
    }
}

impl Read for DocumentFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let position = usize::try_from(self.position).unwrap_or(usize::MAX);
        let read = if let Some(start @ [_, ..]) = self.start.get(position..) {
            let read = start.len().min(buffer.len());
            buffer[..read].copy_from_slice(&start[..read]);
            read
        } else if i64::try_from(self.position).is_err() {
            // The system would refuse the number; for a decoder it is behind the end.
            0
        } else {
            self.file
                .read_at(buffer, self.position)
                .inspect_err(|error| {
                    if error.kind() != io::ErrorKind::Interrupted {
                        // Only the first failure is kept.
                        let _ = self.failure.0.set(error.to_string());
                    }
                })?
        };
        self.position += read as u64;
        Ok(read)
    }
}

impl Seek for DocumentFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(offset) => self.length.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &[u8]) -> DocumentFile {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("document");
        std::fs::write(&path, content).unwrap();
        DocumentFile::open(&path).unwrap()
    }

    #[test]
    fn the_beginning_can_be_replaced() {
        let mut changed = file(b"0123456789").starting_with(b"abc".to_vec());
        let mut text = String::new();
        changed.read_to_string(&mut text).unwrap();
        assert_eq!(text, "abc3456789");
        changed.seek(SeekFrom::End(-8)).unwrap();
        text.clear();
        changed.read_to_string(&mut text).unwrap();
        assert_eq!(text, "c3456789");
    }

    #[test]
    fn an_offset_that_the_content_made_up_is_no_failure_of_the_system() {
        let mut file = file(b"0123456789");
        for to in [SeekFrom::Start(u64::MAX), SeekFrom::Start(1 << 63)] {
            file.seek(to).unwrap();
            assert_eq!(file.read(&mut [0; 4]).unwrap(), 0);
        }
        file.seek(SeekFrom::Start(2)).unwrap();
        assert!(file.seek(SeekFrom::Current(-3)).is_err());
        assert_eq!(file.failure().check(), Ok(()));
    }

    #[test]
    fn a_failure_of_the_system_is_remembered() {
        // No address of this process is 0: reading there fails with EIO.
        let mut file = DocumentFile::open("/proc/self/mem".as_ref()).unwrap();
        let failure = file.failure();
        assert!(file.read(&mut [0; 4]).is_err());
        let error = failure.or(RenderError::Damaged("no header".into()));
        assert_eq!(error.reason(), "Io", "{error}");
    }
}
