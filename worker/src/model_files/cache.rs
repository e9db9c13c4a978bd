//! A cache of fetched files. Downloads are resumed and verified; only complete files get their
//! names.
//!
//! A directory is locked while files are fetched, so that workers may share it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use serde::{Deserialize, Serialize};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::runtime::failure::{Failure, Reason, Stage};

/// How often a long download logs its progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// A file at a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RemoteFile {
    pub(super) name: String,
    pub(super) bytes: u64,
    /// Changes whenever the content changes.
    pub(super) version: String,
    /// The digest of the content, if the source publishes one.
    pub(super) digest: Option<RemoteDigest>,
}

/// A digest published by a source, in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RemoteDigest {
    Sha256(String),
    /// SHA-1 over git's blob header and the content.
    GitBlob(String),
}

/// The content of a file, from some byte to its end.
pub(super) struct Body {
    /// Position of the first byte. A source that cannot resume starts at 0.
    pub(super) from: u64,
    pub(super) chunks: BoxStream<'static, Result<Bytes, Failure>>,
}

/// A source of files.
pub(super) trait Source {
    /// Lists the files directly below the address.
    async fn list(&self) -> Result<Vec<RemoteFile>, Failure>;
    /// Opens exactly this version of a file, from byte `from`.
    async fn open(&self, file: &RemoteFile, from: u64) -> Result<Body, Failure>;
}

/// A complete and verified file in the cache. This is stored next to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LocalFile {
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) version: String,
    pub(super) sha256: String,
}

/// A locked directory of fetched files. Other workers wait until this is dropped.
pub(super) struct Cache {
    directory: PathBuf,
    _lock: std::fs::File,
}

impl Cache {
    /// Creates the directory and waits for its lock.
    pub(super) async fn open(directory: PathBuf) -> Result<Self, Failure> {
        let unusable = unwritable(&directory);
        let path = directory.clone();
        let lock = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&path)?;
            let lock = std::fs::File::create(path.join(".lock"))?;
            // If the file system has no locks, a file may be fetched twice.
            if let Err(std::fs::TryLockError::WouldBlock) = lock.try_lock() {
                tracing::info!(
                    directory = %path.display(),
                    "another worker is fetching the model, waiting"
                );
                lock.lock()?;
            }
            Ok(lock)
        });
        let lock = lock
            .await
            .unwrap_or_else(|error| Err(std::io::Error::other(error)))
            .map_err(unusable)?;
        Ok(Self {
            directory,
            _lock: lock,
        })
    }

    /// Fetches `file`, unless the cache has this version.
    pub(super) async fn ensure(
        &self,
        source: &impl Source,
        file: &RemoteFile,
    ) -> Result<LocalFile, Failure> {
        if let Some(local) = self.current(file).await {
            return Ok(local);
        }
        let partial = self.hidden(&file.name, "partial");
        let resumed = self.resumable(file, &partial).await;
        let (digests, have) = resumed.unwrap_or_else(|| (Digests::new(file.bytes), 0));
        let sha256 = if have == file.bytes && have > 0 {
            digests.finish()
        } else {
            self.download(source, file, &partial, digests, have).await?
        };
        if let Some(problem) = sha256.differs(file.digest.as_ref()) {
            // No part of it can be trusted.
            let _ = tokio::fs::remove_file(&partial).await;
            let message = format!("{}: {problem}; fetching it again", file.name);
            return Err(Failure::transient(
                Stage::Model,
                Reason::ModelCorrupted,
                message,
            ));
        }
        let local = LocalFile {
            name: file.name.clone(),
            bytes: file.bytes,
            version: file.version.clone(),
            sha256: sha256.sha256,
        };
        let note = serde_json::to_vec(&local)
            .map_err(|error| Failure::fatal(Stage::Model, Reason::CacheUnwritable, error))?;
        let target = self.directory.join(&file.name);
        // The note is written after the rename: only a file with a note is known to be complete. A
        // power cut must not leave the note without the content, so each step is on the disk before
        // the next one.
        let moved = async {
            sync(&partial).await?;
            tokio::fs::rename(&partial, &target).await?;
            sync(&self.directory).await?;
            let (written, verified) = (
                self.hidden(&file.name, "verified.new"),
                self.hidden(&file.name, "verified"),
            );
            tokio::fs::write(&written, note).await?;
            sync(&written).await?;
            tokio::fs::rename(&written, &verified).await?;
            sync(&self.directory).await?;
            tokio::fs::remove_file(self.hidden(&file.name, "version")).await
        };
        moved.await.map_err(unwritable(&self.directory))?;
        Ok(local)
    }

    /// The cached file, if it is complete and of this version.
    async fn current(&self, file: &RemoteFile) -> Option<LocalFile> {
        let note = tokio::fs::read(self.hidden(&file.name, "verified")).await;
        let local: LocalFile = serde_json::from_slice(&note.ok()?).ok()?;
        let size = tokio::fs::metadata(self.directory.join(&file.name)).await;
        (local.version == file.version
            && local.bytes == file.bytes
            && size.is_ok_and(|metadata| metadata.len() == file.bytes))
        .then_some(local)
    }

    /// The digests and the length of the part of this version that was fetched before.
    async fn resumable(&self, file: &RemoteFile, partial: &Path) -> Option<(Digests, u64)> {
        let version = tokio::fs::read_to_string(self.hidden(&file.name, "version")).await;
        if version.ok()? != file.version {
            return None;
        }
        let mut open = tokio::fs::File::open(partial).await.ok()?;
        let have = open.metadata().await.ok()?.len();
        if have > file.bytes {
            return None;
        }
        let mut digests = Digests::new(file.bytes);
        let mut buffer = vec![0; 1 << 20];
        loop {
            match open.read(&mut buffer).await.ok()? {
                0 => return Some((digests, have)),
                count => digests.update(&buffer[..count]),
            }
        }
    }

    async fn download(
        &self,
        source: &impl Source,
        file: &RemoteFile,
        partial: &Path,
        mut digests: Digests,
        have: u64,
    ) -> Result<Sums, Failure> {
        let body = source.open(file, have).await?;
        let mut written = body.from;
        if written != have {
            digests = Digests::new(file.bytes);
        }
        let mut output = self
            .begin(file, partial, written)
            .await
            .map_err(unwritable(&self.directory))?;
        let total = file.bytes;
        tracing::info!(
            file = file.name,
            bytes = total,
            from = written,
            "fetching model file"
        );
        let started = Instant::now();
        let (first, mut logged) = (written, started);
        let mut chunks = body.chunks;
        while let Some(chunk) = chunks.try_next().await? {
            digests.update(&chunk);
            output
                .write_all(&chunk)
                .await
                .map_err(unwritable(&self.directory))?;
            written += u64::try_from(chunk.len()).unwrap_or(0);
            if logged.elapsed() >= PROGRESS_INTERVAL {
                logged = Instant::now();
                let percent = written * 100 / total.max(1);
                let rate = (written - first) as f64 / started.elapsed().as_secs_f64() / 1e6;
                tracing::info!(
                    file = file.name,
                    percent,
                    megabytes_per_second = rate,
                    "still fetching model file"
                );
            }
        }
        output.flush().await.map_err(unwritable(&self.directory))?;
        if written != total {
            let message = format!("{}: received {written} of {total} bytes", file.name);
            return Err(Failure::transient(
                Stage::Model,
                Reason::ModelIncomplete,
                message,
            ));
        }
        Ok(digests.finish())
    }

    /// Opens the partial file to append from byte `from`.
    async fn begin(
        &self,
        file: &RemoteFile,
        partial: &Path,
        from: u64,
    ) -> std::io::Result<tokio::fs::File> {
        if from > 0 {
            return tokio::fs::File::options().append(true).open(partial).await;
        }
        let output = tokio::fs::File::create(partial).await?;
        tokio::fs::write(self.hidden(&file.name, "version"), &file.version).await?;
        Ok(output)
    }

    fn hidden(&self, name: &str, suffix: &str) -> PathBuf {
        self.directory.join(format!(".{name}.{suffix}"))
    }
}

/// Waits until a file, or the entries of a directory, are on the disk. File systems that cannot do
/// that for directories, for example over a network, order their operations themselves.
async fn sync(path: &Path) -> std::io::Result<()> {
    let file = tokio::fs::File::open(path).await?;
    match file.sync_all().await {
        Err(error) if file.metadata().await?.is_file() => Err(error),
        _ => Ok(()),
    }
}

/// Computes both kinds of digests that sources publish.
struct Digests {
    sha256: Sha256,
    git: Sha1,
}

struct Sums {
    sha256: String,
    git: String,
}

impl Digests {
    fn new(bytes: u64) -> Self {
        let mut git = Sha1::new();
        git.update(format!("blob {bytes}\0"));
        Self {
            sha256: Sha256::new(),
            git,
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        self.git.update(bytes);
    }

    fn finish(self) -> Sums {
        Sums {
            sha256: hexadecimal(&self.sha256.finalize()),
            git: hexadecimal(&self.git.finalize()),
        }
    }
}

impl Sums {
    /// The difference from the expected digest, if there is one.
    fn differs(&self, expected: Option<&RemoteDigest>) -> Option<String> {
        let (kind, found, expected) = match expected? {
            RemoteDigest::Sha256(expected) => ("SHA-256", &self.sha256, expected),
            RemoteDigest::GitBlob(expected) => ("git blob id", &self.git, expected),
        };
        (!found.eq_ignore_ascii_case(expected))
            .then(|| format!("its {kind} is {found}, its source states {expected}"))
    }
}

/// SHA-256 of a local file.
pub(super) fn sha256_of(path: &Path) -> std::io::Result<String> {
    let mut digest = Sha256::new();
    let mut file = std::fs::File::open(path)?;
    std::io::copy(&mut file, &mut digest)?;
    Ok(hexadecimal(&digest.finalize()))
}

/// Lower-case hexadecimal digits.
pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Boxes a stream of chunks.
pub(super) fn chunks(
    stream: impl futures::Stream<Item = Result<Bytes, Failure>> + Send + 'static,
) -> BoxStream<'static, Result<Bytes, Failure>> {
    stream.boxed()
}

fn unwritable(directory: &Path) -> impl Fn(std::io::Error) -> Failure + use<> {
    let directory = directory.display().to_string();
    move |error| {
        let message = format!("{directory}: {error}");
        Failure::transient(Stage::Model, Reason::CacheUnwritable, message)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Sends `content`, but at most `cut` bytes the first time.
    struct Flaky {
        content: &'static [u8],
        cut: Mutex<Option<usize>>,
        asked_from: Mutex<Vec<u64>>,
    }

    impl Flaky {
        fn new(content: &'static [u8], cut: Option<usize>) -> Self {
            Self {
                content,
                cut: Mutex::new(cut),
                asked_from: Mutex::default(),
            }
        }

        fn file(&self, digest: Option<RemoteDigest>) -> RemoteFile {
            RemoteFile {
                name: "weights".into(),
                bytes: self.content.len() as u64,
                version: "v1".into(),
                digest,
            }
        }
    }

    impl Source for Flaky {
        async fn list(&self) -> Result<Vec<RemoteFile>, Failure> {
            Ok(vec![self.file(None)])
        }

        async fn open(&self, _: &RemoteFile, from: u64) -> Result<Body, Failure> {
            self.asked_from.lock().unwrap().push(from);
            let rest = &self.content[usize::try_from(from).unwrap()..];
            let cut = self.cut.lock().unwrap().take();
            let sent = &rest[..cut.unwrap_or(rest.len())];
            let chunk = Ok(Bytes::from_static(sent));
            let mut all = vec![chunk];
            if cut.is_some() {
                all.push(Err(Failure::transient(
                    Stage::Model,
                    Reason::HubUnavailable,
                    "cut off",
                )));
            }
            let chunks = chunks(futures::stream::iter(all));
            Ok(Body { from, chunks })
        }
    }

    async fn cache() -> (tempfile::TempDir, Cache) {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path().to_owned()).await.unwrap();
        (directory, cache)
    }

    #[tokio::test]
    async fn an_interrupted_download_is_resumed() {
        let (directory, cache) = cache().await;
        let source = Flaky::new(b"0123456789", Some(4));
        let file = source.file(None);
        let failure = cache.ensure(&source, &file).await.unwrap_err();
        assert_eq!(failure.reason, Reason::HubUnavailable);
        assert!(!directory.path().join("weights").exists());

        let local = cache.ensure(&source, &file).await.unwrap();
        assert_eq!(*source.asked_from.lock().unwrap(), [0, 4]);
        let path = directory.path().join("weights");
        assert_eq!(std::fs::read(&path).unwrap(), b"0123456789");
        assert_eq!(local.sha256, sha256_of(&path).unwrap());
        let left: std::collections::BTreeSet<String> = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let expected = [".lock", ".weights.verified", "weights"].map(str::to_owned);
        assert_eq!(left, expected.into(), "nothing else is left");
    }

    #[tokio::test]
    async fn a_cached_file_is_fetched_again_only_if_it_changed() {
        let (directory, cache) = cache().await;
        let source = Flaky::new(b"0123456789", None);
        let mut file = source.file(None);
        cache.ensure(&source, &file).await.unwrap();
        cache.ensure(&source, &file).await.unwrap();
        assert_eq!(source.asked_from.lock().unwrap().len(), 1);

        file.version = "v2".into();
        cache.ensure(&source, &file).await.unwrap();
        assert_eq!(
            source.asked_from.lock().unwrap().len(),
            2,
            "another version"
        );

        std::fs::write(directory.path().join("weights"), "012").unwrap();
        cache.ensure(&source, &file).await.unwrap();
        assert_eq!(source.asked_from.lock().unwrap().len(), 3, "truncated");
    }

    #[tokio::test]
    async fn a_file_with_a_wrong_digest_is_removed() {
        let (directory, cache) = cache().await;
        let source = Flaky::new(b"hello\n", None);
        let wrong = source.file(Some(RemoteDigest::Sha256("00".repeat(32))));
        let failure = cache.ensure(&source, &wrong).await.unwrap_err();
        assert!(failure.message.contains("SHA-256"), "{failure}");
        assert!(!directory.path().join("weights").exists());
        assert!(!directory.path().join(".weights.partial").exists());

        // The output of `git hash-object` for this content.
        let git = "ce013625030ba8dba906f756967f9e9ca394464a";
        let right = source.file(Some(RemoteDigest::GitBlob(git.into())));
        cache.ensure(&source, &right).await.unwrap();
    }
}
