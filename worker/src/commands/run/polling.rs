//! The thread that polls Kafka, watched: when it ends, for whatever reason, the worker leaves.

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::kafka::consumer::{Delivery, Intake};
use crate::runtime::failure::{Failure, Stage};

/// A poll loop that runs.
pub(super) struct Polling(JoinHandle<Result<(), Failure>>);

impl Polling {
    /// Starts the loop. It ends after `leave` is cancelled, and cancels it when it ends by itself.
    pub(super) fn start(
        intake: Intake,
        leave: CancellationToken,
    ) -> (Self, mpsc::UnboundedReceiver<Delivery>) {
        let (sender, deliveries) = mpsc::unbounded_channel();
        let polling = tokio::task::spawn_blocking(move || {
            let result = intake.run(&sender, &leave);
            leave.cancel();
            result
        });
        (Self(polling), deliveries)
    }

    /// Waits until everything is finished or given back, committed, and the group left.
    pub(super) async fn ended(self) -> Result<(), Failure> {
        let ended = self.0.await;
        ended.unwrap_or_else(|error| Err(Failure::fatal(Stage::Intake, "PollLoopDied", error)))
    }
}
