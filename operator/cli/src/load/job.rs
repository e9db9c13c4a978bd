//! `layra-worker load` as a Job: its progress while it runs, and its result.

use std::io::IsTerminal as _;
use std::pin::Pin;
use std::process::ExitCode;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use anyhow::bail;
use layra_crds::{LoadLine, LoadProgress, LoadResult};
use tokio::io::AsyncWrite;
use tokio::sync::watch;

use crate::cluster::Access;
use crate::run::{self, RunArgs};

/// Time to start the pod, to check and to delete.
const AROUND: Duration = Duration::from_mins(20);
/// Between two lines of progress where there is no terminal.
const INTERVAL: Duration = Duration::from_secs(10);

/// What to send.
#[derive(Clone, Debug)]
pub(crate) struct Load<'a> {
    pub(crate) pipeline: &'a str,
    pub(crate) image: Option<&'a str>,
    pub(crate) documents: u32,
    pub(crate) pages: u32,
    pub(crate) rate: Option<f64>,
    pub(crate) wait: Duration,
    /// Ask for pages at the end.
    pub(crate) checks: bool,
    pub(crate) keep: bool,
}

/// How the Job ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    Measured(Box<LoadResult>),
    /// Without a result.
    Ended(ExitCode),
}

impl Load<'_> {
    /// Runs the Job. It cleans up after itself, also if it is interrupted.
    pub(crate) async fn run(&self, access: &Access) -> anyhow::Result<Outcome> {
        let (progress, _) = watch::channel(LoadProgress::default());
        self.run_watched(access, progress).await
    }

    /// The same. `progress` gets what the Job tells.
    pub(crate) async fn run_watched(
        &self,
        access: &Access,
        progress: watch::Sender<LoadProgress>,
    ) -> anyhow::Result<Outcome> {
        let minutes = self.wait.as_secs().div_ceil(60).max(1);
        let mut arguments = vec![
            "load".to_owned(),
            format!("--documents={}", self.documents),
            format!("--pages={}", self.pages),
            format!("--wait-minutes={minutes}"),
        ];
        arguments.extend(self.rate.map(|rate| format!("--rate={rate}")));
        if !self.checks {
            arguments.push("--no-checks".to_owned());
        }
        if self.keep {
            arguments.push("--keep".to_owned());
        }
        let lines = Lines {
            progress: Some(progress),
            ..Lines::new(self.documents, self.pages)
        };
        let timeout = Duration::from_secs(minutes * 60) + AROUND;
        run_job(self.pipeline, self.image, arguments, timeout, access, lines).await
    }
}

/// Runs the Job that removes what earlier calls have left, and the topics of the pipeline. It refuses
/// all but that of a validation.
pub(crate) async fn remove_topics(
    pipeline: &str,
    image: Option<&str>,
    access: &Access,
) -> anyhow::Result<Outcome> {
    let arguments = vec!["load".to_owned(), "--remove-topics".to_owned()];
    run_job(pipeline, image, arguments, AROUND, access, Lines::new(0, 0)).await
}

async fn run_job(
    pipeline: &str,
    image: Option<&str>,
    arguments: Vec<String>,
    timeout: Duration,
    access: &Access,
    mut lines: Lines,
) -> anyhow::Result<Outcome> {
    let command = RunArgs {
        pipeline: pipeline.to_owned(),
        arguments,
        image: image.map(str::to_owned),
        gpu: false,
        timeout: Some(timeout),
        keep: false,
    };
    let code = run::run_into(&command, access, &mut lines).await;
    lines.end();
    let code = code?;
    for line in &lines.others {
        eprintln!("{line}");
    }
    match lines.result {
        Some(result) => Ok(Outcome::Measured(result)),
        None if code == ExitCode::SUCCESS => {
            bail!("the command printed no result: is the image of this version?")
        }
        None => Ok(Outcome::Ended(code)),
    }
}

/// Reads the log while it is copied, and shows the progress on standard error.
struct Lines {
    documents: u32,
    pages: u32,
    partial: Vec<u8>,
    result: Option<Box<LoadResult>>,
    /// Lines of the log that are for people.
    others: Vec<String>,
    is_terminal: bool,
    shown: Option<Instant>,
    progress: Option<watch::Sender<LoadProgress>>,
}

impl Lines {
    fn new(documents: u32, pages: u32) -> Self {
        Self {
            documents,
            pages,
            partial: Vec::new(),
            result: None,
            others: Vec::new(),
            is_terminal: std::io::stderr().is_terminal(),
            shown: None,
            progress: None,
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.partial.extend_from_slice(bytes);
        while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            self.line(String::from_utf8_lossy(&line).trim_end());
        }
    }

    fn line(&mut self, line: &str) {
        match LoadLine::parse(line) {
            Some(LoadLine::Progress(progress)) => {
                self.show(&progress);
                if let Some(watched) = &self.progress {
                    watched.send_replace(progress);
                }
            }
            Some(LoadLine::Result(result)) => self.result = Some(result),
            None => self.others.push(line.to_owned()),
        }
    }

    /// In place on a terminal, else a line now and then.
    fn show(&mut self, progress: &LoadProgress) {
        let text = words(progress, self.documents, self.pages);
        if self.is_terminal {
            eprint!("\r\x1b[K{text}");
            self.shown = Some(Instant::now());
        } else if self.shown.is_none_or(|at| at.elapsed() >= INTERVAL) {
            eprintln!("{text}");
            self.shown = Some(Instant::now());
        }
    }

    fn end(&mut self) {
        let partial = std::mem::take(&mut self.partial);
        if !partial.is_empty() {
            self.line(String::from_utf8_lossy(&partial).trim_end());
        }
        if self.is_terminal && self.shown.is_some() {
            eprintln!();
        }
    }
}

/// For example `0:31  sent 40/100  searchable 31 (1550 pages, 49.8 pages/s)  failed 0  lag 12`.
fn words(progress: &LoadProgress, documents: u32, pages: u32) -> String {
    let LoadProgress {
        seconds,
        sent,
        searchable,
        failed,
        lag,
        pages_per_second,
    } = *progress;
    let time = Duration::try_from_secs_f64(seconds)
        .unwrap_or_default()
        .as_secs();
    let speed = pages_per_second.map_or_else(String::new, |speed| format!(", {speed:.1} pages/s"));
    let lag = lag.map_or_else(String::new, |lag| format!("  lag {lag}"));
    let done = u64::from(searchable) * u64::from(pages);
    format!(
        "{}:{:02}  sent {sent}/{documents}  searchable {searchable} ({done} pages{speed})  \
         failed {failed}{lag}",
        time / 60,
        time % 60
    )
}

impl AsyncWrite for Lines {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.get_mut().take(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_found_wherever_the_log_is_cut() {
        let result = Box::new(LoadResult {
            searchable: 2,
            ..LoadResult::default()
        });
        let line = serde_json::to_string(&LoadLine::Result(result.clone())).unwrap();
        let log = format!("2026 WARN words\n{line}\n");
        for cut in [0, 7, 20, log.len()] {
            let mut lines = Lines::new(2, 3);
            lines.take(&log.as_bytes()[..cut]);
            lines.take(&log.as_bytes()[cut..]);
            assert_eq!(lines.result.as_ref(), Some(&result), "{cut}");
            assert_eq!(lines.others, ["2026 WARN words"]);
        }
    }

    #[test]
    fn progress_is_one_line() {
        let progress = LoadProgress {
            seconds: 91.4,
            sent: 40,
            searchable: 31,
            failed: 0,
            lag: Some(12),
            pages_per_second: Some(49.84),
        };
        assert_eq!(
            words(&progress, 100, 50),
            "1:31  sent 40/100  searchable 31 (1550 pages, 49.8 pages/s)  failed 0  lag 12"
        );
        let begin = words(&LoadProgress::default(), 10, 50);
        assert_eq!(begin, "0:00  sent 0/10  searchable 0 (0 pages)  failed 0");
    }
}
