//! Waits that Ctrl-C ends.

use std::fmt;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::run::signals::Signals;

const INTERVAL: Duration = Duration::from_millis(500);

/// The command was interrupted. What it has made is still removed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Interrupted(pub(super) ExitCode);

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

pub(super) struct Pauses {
    signals: Signals,
}

impl Pauses {
    pub(super) fn listen() -> std::io::Result<Self> {
        let signals = Signals::listen()?;
        Ok(Self { signals })
    }

    /// Looks again and again until there is something. `None`: not in time.
    pub(super) async fn until<T>(
        &mut self,
        limit: Duration,
        mut look: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<Option<T>> {
        let start = Instant::now();
        loop {
            if let Some(found) = look().await? {
                return Ok(Some(found));
            }
            if start.elapsed() >= limit {
                return Ok(None);
            }
            tokio::select! {
                code = self.signals.next() => anyhow::bail!(Interrupted(ExitCode::from(code))),
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    }
}
