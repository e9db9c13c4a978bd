//! The pages of a TIFF file. The decoder of the crate `image` reads the first directory of a file
//! only, so for every page it is given a beginning of the file that points to that page.

use std::collections::HashSet;
use std::io::{self, Read, Seek, SeekFrom};

use super::RenderError;

/// Largest number of directories of a file, pages and others. A pipeline accepts fewer pages.
const MAX_DIRECTORIES: usize = 200_000;
/// Largest number of entries of a directory.
const MAX_ENTRIES: u64 = 65_535;

/// Tag of the kind of an image, as bits.
const NEW_SUBFILE_TYPE: u16 = 254;
/// Bits of a reduced version of another image, and of a mask.
const REDUCED_OR_MASK: u32 = 1 | 4;
/// Tag of the kind of an image in old files.
const SUBFILE_TYPE: u16 = 255;
/// A reduced version of another image, in old files.
const REDUCED: u32 = 2;
/// Type of an entry with 32-bit numbers.
const LONG: u16 = 4;

/// Where the pages of a TIFF file are.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TiffPages {
    layout: Layout,
    /// Offsets of the directories that describe a page; at least one.
    directories: Vec<u64>,
}

/// Byte order and width of the numbers of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    little_endian: bool,
    /// `BigTIFF`, with 64-bit offsets.
    big: bool,
}

impl TiffPages {
    /// Finds the pages. `None` if the file has no directory at all. Reduced versions of another
    /// image and masks are not pages. A directory that cannot be read counts as a page, so that it
    /// is reported and not left out.
    pub(super) fn find(file: &mut (impl Read + Seek)) -> Result<Option<Self>, RenderError> {
        let Ok((layout, first)) = read_header(file) else {
            return Ok(None);
        };
        let mut seen = HashSet::new();
        let mut directories = Vec::new();
        let mut next = first;
        while next != 0 && seen.insert(next) {
            if seen.len() > MAX_DIRECTORIES {
                let message = format!("more than {MAX_DIRECTORIES} images");
                return Err(RenderError::TooLarge(message));
            }
            let Ok(directory) = layout.read_directory(file, next) else {
                directories.push(next);
                break;
            };
            if directory.is_page {
                directories.push(next);
            }
            next = directory.next;
        }
        if directories.is_empty() {
            directories.extend((first != 0).then_some(first));
        }
        Ok((!directories.is_empty()).then_some(Self {
            layout,
            directories,
        }))
    }

    pub(super) fn count(&self) -> usize {
        self.directories.len()
    }

    /// The beginning of a file whose first directory is that of `page`.
    pub(super) fn start(&self, page: usize) -> Option<Vec<u8>> {
        let offset = *self.directories.get(page)?;
        let Layout { little_endian, big } = self.layout;
        let mut start = if little_endian { b"II" } else { b"MM" }.to_vec();
        let short = |number: u16| {
            if little_endian {
                number.to_le_bytes()
            } else {
                number.to_be_bytes()
            }
        };
        if big {
            for number in [43, 8, 0] {
                start.extend(short(number));
            }
            start.extend(if little_endian {
                offset.to_le_bytes()
            } else {
                offset.to_be_bytes()
            });
        } else {
            let offset = u32::try_from(offset).ok()?;
            start.extend(short(42));
            start.extend(if little_endian {
                offset.to_le_bytes()
            } else {
                offset.to_be_bytes()
            });
        }
        Some(start)
    }
}

struct Directory {
    is_page: bool,
    next: u64,
}

/// Layout of a file and the offset of its first directory.
fn read_header(file: &mut (impl Read + Seek)) -> io::Result<(Layout, u64)> {
    file.seek(SeekFrom::Start(0))?;
    let mut start = [0; 4];
    file.read_exact(&mut start)?;
    let (little_endian, big) = match &start {
        b"II\x2a\0" => (true, false),
        b"MM\0\x2a" => (false, false),
        b"II\x2b\0" => (true, true),
        b"MM\0\x2b" => (false, true),
        _ => return Err(io::ErrorKind::InvalidData.into()),
    };
    let layout = Layout { little_endian, big };
    if big {
        file.seek(SeekFrom::Start(8))?;
    }
    Ok((layout, layout.read_offset(file)?))
}

impl Layout {
    fn read_directory(self, file: &mut (impl Read + Seek), at: u64) -> io::Result<Directory> {
        file.seek(SeekFrom::Start(at))?;
        let count = if self.big {
            self.read_offset(file)?
        } else {
            let mut count = [0; 2];
            file.read_exact(&mut count)?;
            self.short(count).into()
        };
        if count > MAX_ENTRIES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut is_page = true;
        // An entry has its tag, its type, a count and its value.
        let mut entry = [0; 20];
        let (entry_bytes, value) = if self.big { (20, 12) } else { (12, 8) };
        for _ in 0..count {
            file.read_exact(&mut entry[..entry_bytes])?;
            let short = |at: usize| self.short([entry[at], entry[at + 1]]);
            let number = || {
                if short(2) == LONG {
                    let bytes = [0, 1, 2, 3].map(|byte| entry[value + byte]);
                    self.long(bytes)
                } else {
                    short(value).into()
                }
            };
            match short(0) {
                NEW_SUBFILE_TYPE if number() & REDUCED_OR_MASK != 0 => is_page = false,
                SUBFILE_TYPE if number() == REDUCED => is_page = false,
                _ => {}
            }
        }
        let next = self.read_offset(file)?;
        Ok(Directory { is_page, next })
    }

    fn read_offset(self, file: &mut impl Read) -> io::Result<u64> {
        if self.big {
            let mut bytes = [0; 8];
            file.read_exact(&mut bytes)?;
            return Ok(if self.little_endian {
                u64::from_le_bytes(bytes)
            } else {
                u64::from_be_bytes(bytes)
            });
        }
        let mut bytes = [0; 4];
        file.read_exact(&mut bytes)?;
        Ok(self.long(bytes).into())
    }

    fn short(self, bytes: [u8; 2]) -> u16 {
        if self.little_endian {
            u16::from_le_bytes(bytes)
        } else {
            u16::from_be_bytes(bytes)
        }
    }

    fn long(self, bytes: [u8; 4]) -> u32 {
        if self.little_endian {
            u32::from_le_bytes(bytes)
        } else {
            u32::from_be_bytes(bytes)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    /// A file of directories with at most one entry: the type of the image.
    fn file(kinds: &[Option<u32>], last_next: u32) -> Vec<u8> {
        let mut file = b"II\x2a\0\x08\0\0\0".to_vec();
        for (index, kind) in kinds.iter().enumerate() {
            file.extend(u16::from(kind.is_some()).to_le_bytes());
            if let Some(kind) = kind {
                file.extend(NEW_SUBFILE_TYPE.to_le_bytes());
                file.extend(LONG.to_le_bytes());
                file.extend(1_u32.to_le_bytes());
                file.extend(kind.to_le_bytes());
            }
            let next = u32::try_from(file.len() + 4).unwrap();
            let is_last = index + 1 == kinds.len();
            file.extend(if is_last { last_next } else { next }.to_le_bytes());
        }
        file
    }

    fn found(file: Vec<u8>) -> Vec<u64> {
        let pages = TiffPages::find(&mut Cursor::new(file)).unwrap();
        pages.map_or_else(Vec::new, |pages| pages.directories)
    }

    #[test]
    fn thumbnails_and_masks_are_not_pages() {
        let kinds = [Some(0), Some(1), None, Some(4), Some(2)];
        assert_eq!(found(file(&kinds, 0)), [8, 44, 68]);
        assert_eq!(found(file(&[Some(1)], 0)), [8], "something must be drawn");
    }

    #[test]
    fn a_chain_that_leads_back_ends() {
        assert_eq!(found(file(&[None, None], 8)), [8, 14]);
    }

    #[test]
    fn a_directory_that_cannot_be_read_is_a_page() {
        assert_eq!(found(file(&[None], 9999)), [8, 9999]);
        assert_eq!(found(file(&[None], 0)[..10].to_vec()), [8]);
    }

    #[test]
    fn without_a_directory_there_are_no_pages() {
        assert_eq!(TiffPages::find(&mut Cursor::new(b"II\x2a\0")), Ok(None));
        assert_eq!(found(b"II\x2a\0\0\0\0\0".to_vec()), [0_u64; 0]);
    }

    #[test]
    fn every_page_can_be_the_first() {
        for start in [
            b"II\x2a\0\x08\0\0\0".as_slice(),
            b"MM\0\x2a\0\0\0\x08",
            b"II\x2b\0\x08\0\0\0\x10\0\0\0\0\0\0\0",
            b"MM\0\x2b\0\x08\0\0\0\0\0\0\0\0\0\x10",
        ] {
            let pages = TiffPages::find(&mut Cursor::new(start)).unwrap().unwrap();
            assert_eq!(pages.count(), 1);
            assert_eq!(pages.start(0).unwrap(), start);
            assert_eq!(pages.start(1), None);
        }
    }
}
