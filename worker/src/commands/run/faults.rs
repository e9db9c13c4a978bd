//! Faults that `kubectl layra validate --disruptive` asks the workers of a pipeline of its own for.
//! Only the variable that it sets there lets a worker serve them: the images have no shell in which
//! they could be made from outside.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{self, State};
use axum::routing::post;
use axum::{Json, Router};
use layra_crds::{FaultAnswer, VALIDATION_FAULTS_PATH, ValidationFault};
use layra_rendering::container_limit_bytes;
use rustix::process::{Pid, Signal, kill_process};

use crate::runtime::process_metrics::children;

/// How long to wait until the worker is at work.
const PATIENCE: Duration = Duration::from_secs(20);
/// Renderers may live for milliseconds.
const INTERVAL: Duration = Duration::from_millis(5);
/// Time for the answer to reach whoever asked.
const UNTIL_THE_END: Duration = Duration::from_millis(300);
/// How long the disk is full.
const FULL: Duration = Duration::from_secs(8);
/// A larger disk is not the one that the validation has made.
const SMALL_DISK_BYTES: u64 = 1 << 30;
/// Memory that is taken at a time.
const CHUNK_BYTES: usize = 16 << 20;

/// `cache`: the directory of originals in progress.
pub(super) fn router(cache: PathBuf) -> Router {
    Router::new()
        .route(&format!("{VALIDATION_FAULTS_PATH}/{{fault}}"), post(inject))
        .with_state(Arc::new(cache))
}

async fn inject(
    State(cache): State<Arc<PathBuf>>,
    extract::Path(fault): extract::Path<ValidationFault>,
) -> Json<FaultAnswer> {
    let answer = match fault {
        ValidationFault::KilledRenderer => kill_renderer().await,
        ValidationFault::KilledWorker => {
            at_work("the worker ended", || std::process::abort()).await
        }
        // It ends also if whoever asked has gone.
        ValidationFault::FullDisk => tokio::task::spawn_blocking(move || full_disk(&cache))
            .await
            .unwrap_or_else(|error| FaultAnswer::not_met(error.to_string())),
        ValidationFault::OutOfMemory => match container_limit_bytes() {
            Some(limit) => at_work("the worker took all memory", move || take_memory(limit)).await,
            None => FaultAnswer::not_met("the workers have no memory limit"),
        },
        ValidationFault::MilvusCutOff => FaultAnswer::not_met("the proxy does that"),
    };
    tracing::warn!(
        fault = fault.as_str(),
        met = answer.met,
        words = answer.words,
        "a fault was asked for"
    );
    Json(answer)
}

/// A renderer, as soon as there is one.
async fn renderer() -> Option<u32> {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if let Some(renderer) = children().into_iter().next() {
            return Some(renderer);
        }
        tokio::time::sleep(INTERVAL).await;
    }
    None
}

async fn kill_renderer() -> FaultAnswer {
    // One that has ended meanwhile cannot be killed.
    while let Some(renderer) = renderer().await {
        let id = i32::try_from(renderer).ok().and_then(Pid::from_raw);
        if id.is_some_and(|id| kill_process(id, Signal::KILL).is_ok()) {
            return FaultAnswer::met("a renderer was killed");
        }
    }
    not_at_work()
}

/// Waits until a document is in progress, and does something right after the answer.
async fn at_work(words: &str, fault: impl FnOnce() + Send + 'static) -> FaultAnswer {
    if renderer().await.is_none() {
        return not_at_work();
    }
    std::thread::spawn(move || {
        std::thread::sleep(UNTIL_THE_END);
        fault();
    });
    FaultAnswer::met(format!("{words} at work"))
}

fn not_at_work() -> FaultAnswer {
    let seconds = PATIENCE.as_secs();
    FaultAnswer::not_met(format!("the worker rendered nothing within {seconds} s"))
}

/// Takes memory until the kernel ends the container. The worker itself does it, so that it is the
/// largest process where the kernel ends only that.
fn take_memory(limit: u64) {
    let most = limit.saturating_add(limit / 2);
    let mut taken = Vec::new();
    while (taken.len() * CHUNK_BYTES) as u64 <= most {
        taken.push(std::hint::black_box(vec![1_u8; CHUNK_BYTES]));
    }
    // A node with swap.
    tracing::error!("more memory than the limit was taken, and the worker still runs");
}

fn full_disk(cache: &Path) -> FaultAnswer {
    let size = match rustix::fs::statvfs(cache) {
        Ok(disk) => disk.f_blocks.saturating_mul(disk.f_frsize),
        Err(error) => return FaultAnswer::not_met(format!("{}: {error}", cache.display())),
    };
    if size > SMALL_DISK_BYTES {
        let mib = size >> 20;
        return FaultAnswer::not_met(format!("the disk for originals has {mib} MiB: too large"));
    }
    let filler = cache.join("filler");
    let written = fill(&filler, size);
    if written.is_ok() {
        std::thread::sleep(FULL);
    }
    let removed = std::fs::remove_file(&filler);
    match written.and_then(|bytes| removed.map(|()| bytes)) {
        Ok(bytes) => FaultAnswer::met(format!(
            "the disk of {} MiB was full for {} s",
            bytes >> 20,
            FULL.as_secs()
        )),
        Err(error) => FaultAnswer::not_met(format!("{}: {error}", filler.display())),
    }
}

/// Writes until the disk is full. Returns the number of bytes.
fn fill(path: &Path, size: u64) -> std::io::Result<u64> {
    const PIECE: [u8; 4096] = [0; 4096];
    let mut file = File::create(path)?;
    let mut written = 0;
    while written <= size {
        match file.write(&PIECE) {
            Ok(count) => written += count as u64,
            Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(written),
            Err(error) => return Err(error),
        }
    }
    Err(std::io::Error::other(
        "more was written than the disk holds",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(cache: &Path, fault: &str) -> (reqwest::StatusCode, String) {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = router(cache.to_owned());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let request = reqwest::Client::new().post(format!("http://{address}/faults/{fault}"));
        let response = request.send().await.unwrap();
        (response.status(), response.text().await.unwrap())
    }

    #[tokio::test]
    async fn a_disk_that_is_not_small_is_left_alone() {
        let cache = tempfile::tempdir().unwrap();
        let disk = rustix::fs::statvfs(cache.path()).unwrap();
        assert!(disk.f_blocks * disk.f_frsize > SMALL_DISK_BYTES);
        let (status, answer) = ask(cache.path(), "full-disk").await;
        assert_eq!(status, reqwest::StatusCode::OK);
        let answer: FaultAnswer = serde_json::from_str(&answer).unwrap();
        assert!(
            !answer.met && answer.words.ends_with("too large"),
            "{answer:?}"
        );
        assert_eq!(std::fs::read_dir(cache.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn an_unknown_fault_is_refused() {
        let (status, _) = ask(Path::new("/"), "earthquake").await;
        assert_eq!(status, reqwest::StatusCode::BAD_REQUEST);
    }

    #[test]
    fn a_file_that_grows_beyond_the_disk_is_no_full_disk() {
        let folder = tempfile::tempdir().unwrap();
        assert!(fill(&folder.path().join("filler"), 8192).is_err());
    }
}
