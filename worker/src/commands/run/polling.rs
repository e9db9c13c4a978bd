//! Runs the poll loop on its own thread. When the loop ends, for any reason, the worker shuts down.

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::kafka::consumer::Intake;
use crate::runtime::failure::{Failure, Reason, Stage};

/// A running poll loop.
pub(super) struct Polling(JoinHandle<Result<(), Failure>>);

impl Polling {
    /// Starts the loop. It ends after `shutdown` is cancelled, and cancels `shutdown` when it ends.
    pub(super) fn start(intake: Intake, shutdown: CancellationToken) -> Self {
        let polling = tokio::task::spawn_blocking(move || {
            let result = intake.run(&shutdown);
            shutdown.cancel();
            result
        });
        Self(polling)
    }

    /// Waits until all messages are settled or released, offsets are committed, and the consumers
    /// have left the group.
    pub(super) async fn ended(self) -> Result<(), Failure> {
        let ended = self.0.await;
        ended
            .unwrap_or_else(|error| Err(Failure::fatal(Stage::Intake, Reason::PollLoopDied, error)))
    }
}
