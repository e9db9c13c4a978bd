//! The vectors of all pages: one file of f16 values that only grows, mapped into memory. What
//! belongs to which page is in the index; what is behind the index's end was never committed.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, RwLock};

use anyhow::{Context as _, Result, ensure};
use half::f16;
use memmap2::Mmap;

/// Bytes of a value.
const BYTES: u64 = 2;

/// The file, open for one writer and any number of readers.
pub(crate) struct VectorFile {
    file: File,
    map: RwLock<Arc<Mmap>>,
}

impl VectorFile {
    /// Opens the file, which has `end` values; anything behind them is cut off.
    pub(crate) fn open(path: &Path, end: u64) -> Result<Self> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        let open = || {
            let file = options.open(path)?;
            let length = file.metadata()?.len();
            Ok::<_, std::io::Error>((file, length))
        };
        let (file, length) = open().with_context(|| format!("opening {}", path.display()))?;
        ensure!(
            length >= end * BYTES,
            "{} has lost its end: delete its folder, and it is made again",
            path.display()
        );
        file.set_len(end * BYTES)?;
        let map = RwLock::new(Arc::new(map(&file)?));
        Ok(Self { file, map })
    }

    /// Writes values from `end` on, to stay there after a crash.
    pub(crate) fn append(&self, end: u64, values: &[f16]) -> Result<()> {
        self.file
            .write_all_at(bytemuck::cast_slice(values), end * BYTES)
            .and_then(|()| self.file.sync_data())
            .context("writing vectors")?;
        let new = Arc::new(map(&self.file)?);
        *self
            .map
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = new;
        Ok(())
    }

    /// All values as of now. It stays valid whatever is written afterwards.
    pub(crate) fn values(&self) -> Values {
        let map = self.map.read();
        Values(Arc::clone(
            &map.unwrap_or_else(std::sync::PoisonError::into_inner),
        ))
    }
}

/// Values in mapped memory.
#[derive(Clone)]
pub(crate) struct Values(Arc<Mmap>);

impl Values {
    /// `count` values from `start` on; none if the file does not have them.
    pub(crate) fn get(&self, start: u64, count: usize) -> &[f16] {
        let all: &[f16] = bytemuck::cast_slice(&self.0[..self.0.len() / 2 * 2]);
        let start = usize::try_from(start).unwrap_or(usize::MAX);
        let range = start..start.saturating_add(count);
        all.get(range).unwrap_or_default()
    }
}

fn map(file: &File) -> Result<Mmap> {
    #[allow(unsafe_code, reason = "the only way to map a file into memory")]
    // SAFETY: only this process has the file open for writing, because it holds the index's lock.
    // It never changes a value, and shortens the file only before it is mapped.
    let map = unsafe { Mmap::map(file) };
    map.context("mapping the vectors into memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn halves(values: &[f32]) -> Vec<f16> {
        values.iter().copied().map(f16::from_f32).collect()
    }

    #[test]
    fn values_stay_valid_while_others_are_added() {
        let folder = tempfile::tempdir().unwrap();
        let file = VectorFile::open(&folder.path().join("vectors"), 0).unwrap();
        file.append(0, &halves(&[1.0, 2.0])).unwrap();
        let before = file.values();
        file.append(2, &halves(&[3.0])).unwrap();
        assert_eq!(before.get(0, 2), halves(&[1.0, 2.0]));
        assert!(before.get(2, 1).is_empty());
        assert_eq!(file.values().get(1, 2), halves(&[2.0, 3.0]));
    }

    #[test]
    fn what_was_not_committed_is_cut_off_and_what_was_lost_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vectors");
        let file = VectorFile::open(&path, 0).unwrap();
        file.append(0, &halves(&[1.0, 2.0, 3.0])).unwrap();
        drop(file);
        let file = VectorFile::open(&path, 2).unwrap();
        assert!(file.values().get(0, 3).is_empty());
        assert_eq!(file.values().get(0, 2), halves(&[1.0, 2.0]));
        drop(file);
        assert!(VectorFile::open(&path, 3).is_err());
    }
}
