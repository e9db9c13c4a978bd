//! Single services of a running test-bed, for fault injection.

use anyhow::Result;

use super::process::{Daemon, Signal};
use super::services::{Service, WriteLimit};
use super::settings::Settings;

/// A service of a running test-bed. Its data is kept when it is stopped.
#[derive(Clone, Copy, Debug)]
pub struct RunningService<'a> {
    pub(super) settings: &'a Settings,
    pub(super) service: Service,
}

impl RunningService<'_> {
    /// Kills it, as a crash would.
    pub async fn kill(&self) -> Result<()> {
        self.service.stop(self.settings, Signal::Kill).await
    }

    /// Shuts it down gracefully.
    pub async fn stop(&self) -> Result<()> {
        self.service.stop(self.settings, Signal::Terminate).await
    }

    /// Starts it on its existing data and waits until it answers.
    pub async fn start(&self) -> Result<()> {
        self.service.start(self.settings).await
    }

    /// Freezes it, its connections open, until the guard is dropped: to clients, this looks like a
    /// network that drops all packets.
    pub fn freeze(&self) -> Result<Frozen> {
        let daemon = Daemon::new(self.settings, self.service.name());
        daemon.send(Signal::Freeze)?;
        Ok(Frozen { daemon })
    }

    /// Starts Milvus with a rate limit that throttles all writes until its next start.
    pub async fn start_limited(&self) -> Result<()> {
        let limit = WriteLimit::Refusing;
        self.service.start_with(self.settings, limit).await
    }
}

/// A frozen service, resumed when this value is dropped.
#[derive(Debug)]
pub struct Frozen {
    daemon: Daemon,
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if let Err(error) = self.daemon.send(Signal::Thaw) {
            eprintln!("a server may still be frozen: {error:#}");
        }
    }
}
