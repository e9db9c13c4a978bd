//! A renderer from the worker's side: starts it, exchanges messages within a time limit, kills it,
//! and finds out why it died.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::message::{HEADER_BYTES, ProtocolError, body_length};
use super::protocol::{MAX_REPLY_BYTES, Reply, Request};
use super::{RenderError, cpu_time, memory};

/// Bytes of a renderer's standard error that are kept.
const STDERR_TAIL_BYTES: usize = 2048;
/// How long a renderer may take to exit after its pipe was closed.
const GRACE: Duration = Duration::from_secs(2);
/// How long a renderer may take to hand over a reply that it has begun: the page is finished.
const LONGEST_TRANSFER: Duration = Duration::from_secs(20);

/// A running renderer. Dropping it kills it.
#[derive(Debug)]
pub(super) struct RenderProcess {
    child: Child,
    requests: ChildStdin,
    replies: ChildStdout,
    stderr_tail: JoinHandle<String>,
    /// A request was sent and its reply was not read to the end: the next bytes in the pipe belong
    /// to it.
    in_exchange: bool,
    /// CPU time so far. A time limit that passed counts as a whole, used or not.
    used: Duration,
    /// Bytes of memory that it had mapped when the document was open.
    mapped_at_opening: Option<u64>,
}

/// Why there is no valid reply.
enum ExchangeError {
    Pipe(io::Error),
    Protocol(ProtocolError),
}

impl RenderProcess {
    /// Starts a renderer with an empty environment, in its own process group so that Ctrl-C in a
    /// terminal reaches only the worker.
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
            .map_err(|error| not_started(program, &error))?;
        let (Some(requests), Some(replies), Some(errors)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(unavailable(&"the process has no pipes"));
        };
        let stderr_tail = tokio::spawn(read_tail(errors));
        Ok(Self {
            child,
            requests,
            replies,
            stderr_tail,
            in_exchange: false,
            used: Duration::ZERO,
            mapped_at_opening: None,
        })
    }

    /// The process id, until the process has been waited for.
    pub(super) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Remembers how much memory is mapped now that the document is open.
    pub(super) fn has_opened(&mut self) {
        self.mapped_at_opening = self.id().and_then(memory::mapped_bytes_of);
    }

    /// Bytes of memory that were mapped when the document was open.
    pub(super) fn mapped_at_opening(&self) -> Option<u64> {
        self.mapped_at_opening
    }

    /// CPU time that the document is charged with so far. A time limit that passed counts as a whole,
    /// so that the sum of time-outs is bounded, too.
    pub(super) fn charged(&self) -> Duration {
        self.used
    }

    /// Sends a request and waits for the reply. After an error the process is dead, unless the
    /// reply is a failure.
    pub(super) async fn exchange(
        &mut self,
        request: &Request,
        limit: Duration,
    ) -> Result<Reply, RenderError> {
        let length = self.ask(Some(request), limit).await?;
        self.receive(length, limit).await
    }

    /// Waits for another reply to the last request.
    pub(super) async fn next_reply(&mut self, limit: Duration) -> Result<Reply, RenderError> {
        let length = self.ask(None, limit).await?;
        self.receive(length, limit).await
    }

    /// Sends a request and waits until its reply begins. Returns the bytes of the reply, which are
    /// still in the renderer's memory.
    pub(super) async fn ask(
        &mut self,
        request: Option<&Request>,
        limit: Duration,
    ) -> Result<u32, RenderError> {
        if std::mem::replace(&mut self.in_exchange, true) {
            // An earlier call was cancelled halfway, so the next reply belongs to it.
            self.kill().await;
            return Err(RenderError::Killed {
                signal: libc::SIGKILL,
            });
        }
        let used_before = self.id().and_then(cpu_time::of_process);
        let begun = cpu_time::within(limit, self.send_and_read_header(request)).await;
        self.judge(begun, limit, used_before).await
    }

    /// Receives the rest of a reply, of `length` bytes.
    pub(super) async fn receive(
        &mut self,
        length: u32,
        limit: Duration,
    ) -> Result<Reply, RenderError> {
        let limit = limit.min(LONGEST_TRANSFER);
        let used_before = self.id().and_then(cpu_time::of_process);
        let received = cpu_time::within(limit, self.read_body(length)).await;
        let reply = self.judge(received, limit, used_before).await?;
        self.in_exchange = false;
        Ok(reply)
    }

    /// Charges the CPU time. Ends the process after an error, and finds its cause. `None` is a
    /// time-out.
    async fn judge<T>(
        &mut self,
        answer: Option<Result<T, ExchangeError>>,
        limit: Duration,
        used_before: Option<Duration>,
    ) -> Result<T, RenderError> {
        let used = self.id().and_then(cpu_time::of_process);
        self.used = self.used.max(used.unwrap_or_default());
        match answer {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(error)) => Err(self.diagnose(error, limit).await),
            None => {
                let charged = used_before.unwrap_or_default() + limit;
                self.used = self.used.max(charged);
                self.kill().await;
                Err(cpu_time::timed_out(limit, used_before, used))
            }
        }
    }

    async fn send_and_read_header(
        &mut self,
        request: Option<&Request>,
    ) -> Result<u32, ExchangeError> {
        if let Some(request) = request {
            self.requests
                .write_all(&request.encode())
                .await
                .map_err(ExchangeError::Pipe)?;
        }
        let mut header = [0; HEADER_BYTES];
        self.replies
            .read_exact(&mut header)
            .await
            .map_err(ExchangeError::Pipe)?;
        body_length(header, MAX_REPLY_BYTES).map_err(ExchangeError::Protocol)
    }

    async fn read_body(&mut self, length: u32) -> Result<Reply, ExchangeError> {
        let mut limited = (&mut self.replies).take(length.into());
        let length = length as usize;
        // Memory grows with the bytes that arrive, not with the announced length.
        let mut body = Vec::with_capacity(length.min(1 << 20));
        limited
            .read_to_end(&mut body)
            .await
            .map_err(ExchangeError::Pipe)?;
        if body.len() < length {
            return Err(ExchangeError::Pipe(io::ErrorKind::UnexpectedEof.into()));
        }
        Reply::decode(&Bytes::from(body)).map_err(ExchangeError::Protocol)
    }

    /// Kills the process and waits for its end.
    pub(super) async fn kill(&mut self) {
        if let Err(error) = self.child.kill().await {
            tracing::warn!(%error, "renderer cannot be killed");
        }
    }

    /// Finds out why a pipe broke or a reply was invalid.
    async fn diagnose(&mut self, error: ExchangeError, limit: Duration) -> RenderError {
        let error = match error {
            ExchangeError::Protocol(error) => {
                self.kill().await;
                return RenderError::GarbledAnswer(error.to_string());
            }
            ExchangeError::Pipe(error) => error,
        };
        let Ok(Ok(status)) = timeout(GRACE, self.child.wait()).await else {
            self.kill().await;
            return RenderError::GarbledAnswer(format!("it closed its pipe unexpectedly: {error}"));
        };
        let stderr_tail = match timeout(GRACE, &mut self.stderr_tail).await {
            Ok(Ok(tail)) => tail,
            _ => String::new(),
        };
        tracing::debug!(%status, stderr_tail, "renderer died");
        exit_cause(status, &stderr_tail, limit)
    }
}

impl Drop for RenderProcess {
    fn drop(&mut self) {
        self.stderr_tail.abort();
    }
}

/// Why a process could not be started. A lack of processes, memory or descriptors passes.
pub(super) fn not_started(program: &Path, error: &io::Error) -> RenderError {
    let message = format!("{}: {error}", program.display());
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE) => {
            RenderError::NoResources(message)
        }
        _ => RenderError::Unavailable(message),
    }
}

/// Reads what a process writes to its end and returns the last part of it.
pub(super) async fn read_tail(mut errors: impl AsyncRead + Unpin) -> String {
    let mut kept = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(read @ 1..) = errors.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..read]);
        let surplus = kept.len().saturating_sub(STDERR_TAIL_BYTES);
        kept.drain(..surplus);
    }
    String::from_utf8_lossy(&kept).trim().to_owned()
}

/// Why a renderer, or LibreOffice, died. When memory runs out, the process aborts, with different
/// messages from Rust and C++ and none from PDFium. A corrupted heap aborts it too, with a message.
pub(super) fn exit_cause(status: ExitStatus, stderr_tail: &str, limit: Duration) -> RenderError {
    let crashed = |how: String| {
        let how = if stderr_tail.is_empty() {
            how
        } else {
            format!("{how}: {stderr_tail}")
        };
        RenderError::Crashed(how)
    };
    match status.signal() {
        None => crashed(status.to_string()),
        Some(libc::SIGXCPU) => RenderError::TimedOut { limit },
        Some(libc::SIGABRT)
            if stderr_tail.is_empty()
                || stderr_tail.contains("memory allocation of")
                || stderr_tail.contains("bad_alloc") =>
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

    fn died(signal: i32, stderr_tail: &str) -> RenderError {
        exit_cause(
            ExitStatus::from_raw(signal),
            stderr_tail,
            Duration::from_secs(1),
        )
    }

    #[test]
    fn an_abort_without_a_message_is_out_of_memory() {
        assert_eq!(died(libc::SIGABRT, ""), RenderError::OutOfMemory);
        assert_eq!(
            died(libc::SIGABRT, "memory allocation of 99 bytes failed"),
            RenderError::OutOfMemory
        );
    }

    #[test]
    fn a_corrupted_heap_is_a_crash() {
        assert_eq!(
            died(libc::SIGABRT, "double free or corruption").reason(),
            "Crashed"
        );
        assert_eq!(died(libc::SIGSEGV, "").reason(), "Crashed");
    }

    #[test]
    fn exceeding_the_cpu_time_limit_is_a_timeout() {
        assert_eq!(died(libc::SIGXCPU, "").reason(), "TimedOut");
    }

    #[test]
    fn a_lack_of_resources_is_not_the_end_of_the_worker() {
        let cause = |number| {
            let error = io::Error::from_raw_os_error(number);
            not_started("renderer".as_ref(), &error)
        };
        for number in [libc::EAGAIN, libc::ENOMEM, libc::EMFILE] {
            assert!(matches!(cause(number), RenderError::NoResources(_)));
        }
        assert!(matches!(cause(libc::ENOENT), RenderError::Unavailable(_)));
    }

    #[test]
    fn before_the_document_is_read_it_is_not_to_blame() {
        for status in [
            ExitStatus::from_raw(127 << 8),
            ExitStatus::from_raw(1 << 8),
            ExitStatus::from_raw(libc::SIGSEGV),
            ExitStatus::from_raw(libc::SIGSYS),
            ExitStatus::from_raw(libc::SIGABRT),
            ExitStatus::from_raw(libc::SIGXCPU),
            ExitStatus::from_raw(libc::SIGKILL),
        ] {
            let error = exit_cause(status, "", Duration::from_secs(1));
            assert!(!error.before_the_document().is_document_fault(), "{status}");
        }
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
        let error = exit_cause(status, "index out of bounds", Duration::from_secs(1));
        assert_eq!(
            error,
            RenderError::Crashed("exit status: 101: index out of bounds".to_owned())
        );
    }
}
