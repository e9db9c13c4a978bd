//! Notifications of a bucket, with `source.kafka.format: S3Event`.

use layra_crds::metric_names::worker as names;
use rdkafka::Message as _;
use rdkafka::message::OwnedMessage;
use tokio_util::sync::CancellationToken;

use super::dispatch::{Dispatcher, written_at};
use crate::document::bucket::Bucket;
use crate::document::notification::{self, Notification};
use crate::document::task::Task;
use crate::document::{Origin, Sent};
use crate::runtime::failure::{Failure, Stage};

impl Dispatcher {
    /// Reads the message of a pipeline with a bucket. `None`: it is no notification.
    pub(super) fn notification(&self, payload: &[u8]) -> Option<Result<Notification, Failure>> {
        self.pipeline.bucket.as_ref()?;
        notification::parse(payload)
            .map_err(Failure::from)
            .transpose()
    }

    /// Processes a notification.
    pub(super) async fn notified(
        &self,
        notification: &Notification,
        position: &Origin,
        message: &OwnedMessage,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        let Some(bucket) = &self.pipeline.bucket else {
            return Ok(());
        };
        let mut changes = Vec::new();
        for change in &notification.changes {
            match bucket.check(change) {
                Ok(()) => changes.push(change),
                Err(why) => {
                    let (key, why) = (&change.key, why.as_str());
                    tracing::info!(bucket = change.bucket, key, why, "change ignored");
                    self.count_change(why);
                }
            }
        }
        if let [change] = changes.as_slice() {
            return self
                .object(bucket, &change.key, position, message, cancel)
                .await;
        }
        // Each becomes a message of its own, which can be split, sent again or rejected.
        let sent = Sent::of_message(message.headers(), position, written_at(message))?;
        for change in changes {
            let (object, value) = (bucket.object(&change.key), change.to_message());
            let publish = |_| self.outbox.send_change(&object, &value, &sent);
            let retry = &self.pipeline.retry;
            retry.run(Stage::DeadLetter, cancel, publish).await?;
        }
        Ok(())
    }

    /// Brings the stores to what the bucket holds of an object.
    pub(super) async fn object(
        &self,
        bucket: &Bucket,
        key: &str,
        position: &Origin,
        message: &OwnedMessage,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        let compare = self.pipeline.compare_object(bucket, key, cancel);
        let Some(task) = Box::pin(compare).await?.task else {
            self.count_change(names::RESULT_GONE);
            return Ok(());
        };
        self.count_change(names::RESULT_PRESENT);
        // Page ranges and dead letters have the task: the object may be another one later.
        let message = with_task(message, &task);
        Box::pin(self.task(&task, None, position.clone(), &message, cancel)).await
    }

    /// Removes the versions of an object that a document replaces, after a message of the document
    /// was settled.
    pub(super) async fn replace_versions(
        &self,
        task: &Task,
        sent: &Sent,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        let (Some(bucket), Some(_)) = (&self.pipeline.bucket, &task.file.version) else {
            return Ok(());
        };
        let compare = self.pipeline.compare_object(bucket, &task.file.key, cancel);
        let compared = Box::pin(compare).await?;
        if let Some(task) = compared.task.filter(|_| compared.is_back) {
            let publish = |_| self.outbox.send_task(&task, sent);
            let retry = &self.pipeline.retry;
            retry.run(Stage::DeadLetter, cancel, publish).await?;
        }
        Ok(())
    }

    fn count_change(&self, result: &str) {
        let changes = &self.common.metrics.bucket_changes;
        changes.with_label_values(&[result]).inc();
    }
}

/// The message with a task as its value.
fn with_task(message: &OwnedMessage, task: &Task) -> OwnedMessage {
    OwnedMessage::new(
        Some(task.to_message()),
        message.key().map(<[u8]>::to_vec),
        message.topic().to_owned(),
        message.timestamp(),
        message.partition(),
        message.offset(),
        message.headers().cloned(),
    )
}
