//! Progress for people: on a terminal a line with a running clock for each step, elsewhere plain
//! lines.

use std::fmt::Display;
use std::future::Future;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// The steps of one program.
#[derive(Clone, Debug)]
pub struct Progress {
    bars: MultiProgress,
    is_terminal: bool,
}

impl Progress {
    /// Shows progress on standard error.
    #[must_use]
    pub fn new() -> Self {
        Self {
            bars: MultiProgress::new(),
            is_terminal: std::io::stderr().is_terminal(),
        }
    }

    /// Runs a step and shows its duration; `what` is shown while it runs.
    pub async fn step<T>(
        &self,
        name: &str,
        what: &str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.step_with_status(name, what, async |_| work.await)
            .await
    }

    /// Runs a step that updates its status.
    pub async fn step_with_status<T>(
        &self,
        name: &str,
        what: &str,
        work: impl AsyncFnOnce(&Step) -> Result<T>,
    ) -> Result<T> {
        let bar = self.begin(name, what);
        let start = Instant::now();
        let step = Step(bar.clone());
        let result = work(&step).await;
        bar.finish_and_clear();
        let seconds = start.elapsed().as_secs_f32();
        match &result {
            Ok(_) => self.line(format!("  ✓ {name:<24} {seconds:>6.1} s")),
            Err(_) => self.line(format!("  ✗ {name:<24} {seconds:>6.1} s  failed")),
        }
        result.with_context(|| name.to_owned())
    }

    /// Prints a permanent line above the running steps.
    pub fn line(&self, text: impl Display) {
        if self.is_terminal {
            self.bars.suspend(|| eprintln!("{text}"));
        } else {
            eprintln!("{text}");
        }
    }

    fn begin(&self, name: &str, what: &str) -> ProgressBar {
        if !self.is_terminal {
            eprintln!("  … {name:<24} {what}");
            return ProgressBar::hidden();
        }
        let bar = self.bars.add(ProgressBar::new_spinner());
        let style = ProgressStyle::with_template("  {spinner} {prefix:<24} {elapsed:>6}    {msg}")
            .expect("a constant template that the tests render");
        bar.set_style(style);
        bar.set_prefix(name.to_owned());
        bar.set_message(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    }
}

/// A running step.
#[derive(Debug)]
pub struct Step(ProgressBar);

impl Step {
    /// On a terminal, shows this next to the clock.
    pub fn show(&self, what: &str) {
        self.0.set_message(what.to_owned());
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}
