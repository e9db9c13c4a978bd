//! Single services of a running bed, for those who make things go wrong.

use anyhow::Result;

use super::process::{Daemon, Signal};
use super::services::{Service, WriteLimit};
use super::settings::Settings;

/// A service of a running bed. Its data stays when it ends.
#[derive(Clone, Copy, Debug)]
pub struct RunningService<'a> {
    pub(super) settings: &'a Settings,
    pub(super) service: Service,
}

impl RunningService<'_> {
    /// Ends it at once, as a crash would.
    pub async fn kill(&self) -> Result<()> {
        self.service.stop(self.settings, Signal::Kill).await
    }

    /// Asks it to end and waits for that.
    pub async fn stop(&self) -> Result<()> {
        self.service.stop(self.settings, Signal::Terminate).await
    }

    /// Starts it on its old data and waits until it answers.
    pub async fn start(&self) -> Result<()> {
        self.service.start(self.settings).await
    }

    /// Lets it stand still, its connections open, until the guard is dropped: what a network that
    /// swallows packets looks like.
    pub fn freeze(&self) -> Result<Frozen> {
        let daemon = Daemon::new(self.settings, self.service.name());
        daemon.send(Signal::Freeze)?;
        Ok(Frozen { daemon })
    }

    /// Starts Milvus, which refuses writes for their rate until it is started again.
    pub async fn start_limited(&self) -> Result<()> {
        let limit = WriteLimit::Refusing;
        self.service.start_with(self.settings, limit).await
    }
}

/// A service that stands still.
#[derive(Debug)]
pub struct Frozen {
    daemon: Daemon,
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if let Err(error) = self.daemon.send(Signal::Thaw) {
            eprintln!("a server may still stand still: {error:#}");
        }
    }
}
