//! How far the folder is: a bar with the time left on a terminal, and figures for the page.

use std::io::IsTerminal as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::store::FileRecord;

/// Progress of the present pass over the folder.
pub(crate) struct Progress {
    bar: ProgressBar,
    /// Whether whole lines are printed instead of a bar.
    lines: bool,
    figures: Mutex<Figures>,
}

/// What the page shows.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Status {
    /// Whether documents are being read.
    pub(crate) indexing: bool,
    /// Files of this pass.
    pub(crate) files: u32,
    /// Those that are done.
    pub(crate) files_done: u32,
    /// Pages that were added in this pass.
    pub(crate) pages_added: u32,
    /// Estimated seconds until the pass is done.
    pub(crate) seconds_left: Option<u64>,
}

#[derive(Default)]
struct Figures {
    status: Status,
    started: Option<Instant>,
}

impl Progress {
    /// Shows a bar on standard error if that is a terminal.
    pub(crate) fn new() -> Self {
        let style = ProgressStyle::with_template("{bar:30} {percent:>3} %  {msg}");
        let bar = ProgressBar::new(0);
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self {
            bar,
            lines: !std::io::stderr().is_terminal(),
            figures: Mutex::default(),
        }
    }

    /// A pass over these files begins.
    pub(crate) fn begin(&self, work: &[(String, FileRecord)]) {
        let bytes = work.iter().map(|(_, file)| file.stamp.size).sum();
        let files = u32::try_from(work.len()).unwrap_or(u32::MAX);
        self.bar.reset();
        self.bar.set_length(bytes);
        if self.lines {
            eprintln!("reading {}", counted(files, "file"));
        }
        *self.figures() = Figures {
            status: Status {
                indexing: true,
                files,
                ..Status::default()
            },
            started: Some(Instant::now()),
        };
        self.show();
    }

    /// Bytes of documents are done, and pages were added.
    pub(crate) fn advance(&self, bytes: u64, pages: u32) {
        self.bar.inc(bytes);
        self.figures().status.pages_added += pages;
        self.show();
    }

    /// Files are done.
    pub(crate) fn files_done(&self, files: u32) {
        self.figures().status.files_done += files;
        self.show();
    }

    /// The pass is done.
    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
        let mut figures = self.figures();
        figures.status.indexing = false;
        let Status {
            files_done,
            pages_added,
            ..
        } = figures.status;
        let took = figures
            .started
            .map_or(0.0, |start| start.elapsed().as_secs_f32());
        let (files, pages) = (counted(files_done, "file"), counted(pages_added, "page"));
        eprintln!("{files}, {pages} in {took:.1} s");
    }

    /// The figures of now.
    pub(crate) fn status(&self) -> Status {
        let mut status = self.figures().status;
        status.seconds_left = self.time_left().map(|left| left.as_secs());
        status
    }

    /// The time that the rest takes, if a byte takes as long as before.
    fn time_left(&self) -> Option<Duration> {
        let figures = self.figures();
        let elapsed = figures
            .started
            .filter(|_| figures.status.indexing)?
            .elapsed();
        let (done, all) = (self.bar.position(), self.bar.length()?);
        left(elapsed, done, all)
    }

    fn show(&self) {
        let left = self.time_left();
        let Status {
            files,
            files_done,
            pages_added,
            ..
        } = self.figures().status;
        let left = left.map_or(String::new(), |left| {
            format!(", {} left", HumanDuration(left))
        });
        self.bar.set_message(format!(
            "{files_done} of {}, {}{left}",
            counted(files, "file"),
            counted(pages_added, "page")
        ));
    }

    fn figures(&self) -> MutexGuard<'_, Figures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nothing is said of the first seconds and of the first hundredth.
fn left(elapsed: Duration, done: u64, all: u64) -> Option<Duration> {
    if elapsed < Duration::from_secs(2) || done < all / 100 || done == 0 {
        return None;
    }
    let rest = all.saturating_sub(done) as f64 / done as f64;
    Some(elapsed.mul_f64(rest))
}

/// A number with its noun.
fn counted(count: u32, noun: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{ending}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_follows_from_the_bytes_that_are_done() {
        let seconds = Duration::from_secs;
        assert_eq!(left(seconds(10), 25, 100), Some(seconds(30)));
        assert_eq!(left(seconds(10), 0, 100), None);
        assert_eq!(left(seconds(1), 25, 100), None);
        assert_eq!(left(seconds(10), 200, 100), Some(seconds(0)));
    }

    #[test]
    fn one_file_is_no_files() {
        let counts = [0, 1, 2].map(|count| counted(count, "file"));
        assert_eq!(counts, ["0 files", "1 file", "2 files"]);
    }
}
