//! A renderer as the worker sees it: started, asked, timed, killed, and its death explained.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::RenderError;
use super::frame::{HEADER_BYTES, Header};
use super::protocol::{MAX_REPLY_BYTES, Reply, Request};

/// Bytes of a renderer's last words that are kept.
const LAST_WORDS_BYTES: usize = 2048;
/// How long a renderer whose pipe is closed may take to be gone.
const GRACE: Duration = Duration::from_secs(2);

/// A running renderer. Dropping it kills it.
#[derive(Debug)]
pub(super) struct RenderProcess {
    child: Child,
    requests: ChildStdin,
    replies: ChildStdout,
    last_words: JoinHandle<String>,
    /// A request was sent and its reply not read to the end: the pipe is out of step.
    in_exchange: bool,
}

/// Why no reply came.
enum Broken {
    Pipe(io::Error),
    Protocol(String),
}

impl RenderProcess {
    /// Starts a renderer with an empty environment, in a process group of its own so that a
    /// terminal's Ctrl-C reaches the worker alone.
    pub(super) fn spawn(program: &Path) -> Result<Self, RenderError> {
        let unavailable = |error: &dyn std::fmt::Display| {
            RenderError::Unavailable(format!("{}: {error}", program.display()))
        };
        let mut child = Command::new(program)
            .arg("render-child")
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| unavailable(&error))?;
        let (Some(requests), Some(replies), Some(errors)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(unavailable(&"it has no pipes"));
        };
        let last_words = tokio::spawn(listen(errors));
        Ok(Self {
            child,
            requests,
            replies,
            last_words,
            in_exchange: false,
        })
    }

    /// The process, while it has not been waited for.
    pub(super) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Sends a request and waits for the reply. After an error the process is dead.
    pub(super) async fn exchange(
        &mut self,
        request: &Request,
        limit: Duration,
    ) -> Result<Reply, RenderError> {
        if std::mem::replace(&mut self.in_exchange, true) {
            // An earlier call was given up in the middle, so the next bytes answer that one.
            self.kill().await;
            return Err(RenderError::Killed {
                signal: libc::SIGKILL,
            });
        }
        match timeout(limit, self.talk(request)).await {
            Ok(Ok(reply)) => {
                self.in_exchange = false;
                Ok(reply)
            }
            Ok(Err(broken)) => Err(self.explain(broken, limit).await),
            Err(_) => {
                self.kill().await;
                Err(RenderError::TimedOut { limit })
            }
        }
    }

    async fn talk(&mut self, request: &Request) -> Result<Reply, Broken> {
        self.requests
            .write_all(&request.encode())
            .await
            .map_err(Broken::Pipe)?;
        let mut header = [0; HEADER_BYTES];
        self.replies
            .read_exact(&mut header)
            .await
            .map_err(Broken::Pipe)?;
        let header = Header::parse(header, MAX_REPLY_BYTES)
            .map_err(|error| Broken::Protocol(error.to_string()))?;
        // Memory grows with what arrives, not with what is announced.
        let length = header.length as usize;
        let mut body = Vec::with_capacity(length.min(1 << 20));
        let mut limited = (&mut self.replies).take(u64::from(header.length));
        limited.read_to_end(&mut body).await.map_err(Broken::Pipe)?;
        if body.len() < length {
            return Err(Broken::Pipe(io::ErrorKind::UnexpectedEof.into()));
        }
        Reply::decode(header.kind, Bytes::from(body))
            .map_err(|error| Broken::Protocol(error.to_string()))
    }

    async fn kill(&mut self) {
        if let Err(error) = self.child.kill().await {
            tracing::warn!(%error, "a renderer cannot be killed");
        }
    }

    /// Finds out what a broken pipe or a senseless reply means.
    async fn explain(&mut self, broken: Broken, limit: Duration) -> RenderError {
        let error = match broken {
            Broken::Protocol(detail) => {
                self.kill().await;
                return RenderError::GarbledAnswer(detail);
            }
            Broken::Pipe(error) => error,
        };
        let Ok(Ok(status)) = timeout(GRACE, self.child.wait()).await else {
            self.kill().await;
            return RenderError::GarbledAnswer(format!("it closed its pipe: {error}"));
        };
        let last_words = match timeout(GRACE, &mut self.last_words).await {
            Ok(Ok(words)) => words,
            _ => String::new(),
        };
        tracing::debug!(%status, last_words, "a renderer died");
        cause_of_death(status, &last_words, limit)
    }
}

impl Drop for RenderProcess {
    fn drop(&mut self) {
        self.last_words.abort();
    }
}

/// Reads all that a renderer says on standard error and keeps the last of it.
pub(super) async fn listen(mut errors: tokio::process::ChildStderr) -> String {
    let mut kept = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(read @ 1..) = errors.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..read]);
        let surplus = kept.len().saturating_sub(LAST_WORDS_BYTES);
        kept.drain(..surplus);
    }
    String::from_utf8_lossy(&kept).trim().to_owned()
}

/// What a renderer, or LibreOffice, died of. Memory that runs out ends in an abort, with different last words in
/// Rust, in C++ and in PDFium (none); a damaged heap ends in an abort too, and says so.
pub(super) fn cause_of_death(status: ExitStatus, last_words: &str, limit: Duration) -> RenderError {
    let crashed = |how: String| {
        let how = if last_words.is_empty() {
            how
        } else {
            format!("{how}: {last_words}")
        };
        RenderError::Crashed(how)
    };
    match status.signal() {
        None => crashed(status.to_string()),
        Some(libc::SIGXCPU) => RenderError::TimedOut { limit },
        Some(libc::SIGABRT)
            if last_words.is_empty()
                || last_words.contains("memory allocation of")
                || last_words.contains("bad_alloc") =>
        {
            RenderError::OutOfMemory
        }
        Some(
            signal @ (libc::SIGABRT
            | libc::SIGBUS
            | libc::SIGFPE
            | libc::SIGILL
            | libc::SIGSEGV
            | libc::SIGSYS
            | libc::SIGTRAP
            | libc::SIGXFSZ),
        ) => crashed(format!("signal {signal}")),
        Some(signal) => RenderError::Killed { signal },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn died(signal: i32, last_words: &str) -> RenderError {
        cause_of_death(
            ExitStatus::from_raw(signal),
            last_words,
            Duration::from_secs(1),
        )
    }

    #[test]
    fn an_abort_without_last_words_is_out_of_memory() {
        assert_eq!(died(libc::SIGABRT, ""), RenderError::OutOfMemory);
        assert_eq!(
            died(libc::SIGABRT, "memory allocation of 99 bytes failed"),
            RenderError::OutOfMemory
        );
    }

    #[test]
    fn a_damaged_heap_is_a_crash() {
        assert_eq!(
            died(libc::SIGABRT, "double free or corruption").reason(),
            "Crashed"
        );
        assert_eq!(died(libc::SIGSEGV, "").reason(), "Crashed");
    }

    #[test]
    fn used_up_cpu_time_is_a_time_out() {
        assert_eq!(died(libc::SIGXCPU, "").reason(), "TimedOut");
    }

    #[test]
    fn a_kill_from_outside_is_not_the_documents_fault() {
        for signal in [libc::SIGKILL, libc::SIGTERM, libc::SIGINT] {
            assert!(!died(signal, "").is_document_fault());
        }
    }

    #[test]
    fn a_panic_is_a_crash_with_its_message() {
        let status = ExitStatus::from_raw(101 << 8);
        let error = cause_of_death(status, "index out of bounds", Duration::from_secs(1));
        assert_eq!(
            error,
            RenderError::Crashed("exit status: 101: index out of bounds".to_owned())
        );
    }
}
