//! Uploads the originals and sends their tasks: all at once, or some each second.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::{FOLDER, Load, USERNAME, documents};
use crate::document::task::{FileMeta, Task};
use crate::runtime::failure::{Failure, Stage};

/// Uploads at the same time.
const UPLOADS: usize = 8;
/// Tasks that are sent at the same time.
const SENDS: usize = 64;

/// A document in the bucket.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) file_id: String,
    /// The key of the original.
    pub(super) key: String,
    /// When its task was acknowledged by Kafka.
    pub(super) at: Option<Instant>,
}

/// The folder of a pipeline's originals.
pub(super) fn folder(topic: &str) -> String {
    format!("{FOLDER}/{topic}")
}

/// The knowledge base in the key of an original.
pub(super) fn knowledge_base_of(key: &str) -> Option<&str> {
    let (_, name) = key.rsplit_once('/')?;
    let (knowledge_base, _) = name.rsplit_once('_')?;
    let (user, _) = knowledge_base.split_once('_')?;
    (user == USERNAME).then_some(knowledge_base)
}

impl Load<'_> {
    /// Sends every document. Returns early once [`Load::stop`] is cancelled, never between the
    /// sending of a task and its acknowledgement.
    pub(super) async fn send(&self) -> Result<(), Failure> {
        let numbers = 1..=self.args.documents;
        let sent = match self.args.rate {
            None => self.send_at_once(numbers).await,
            Some(rate) => {
                let sends = stream::iter(numbers).map(|number| async move {
                    let due = Duration::from_secs_f64(f64::from(number - 1) / rate);
                    self.pause(due.saturating_sub(self.started.elapsed())).await;
                    let task = Box::pin(self.upload(number)).await?;
                    self.send_task(&task).await
                });
                sends.buffer_unordered(SENDS).try_collect().await
            }
        };
        match sent {
            Err(_) if self.stop.is_cancelled() => Ok(()),
            sent => sent.inspect_err(|_| self.stop.cancel()),
        }
    }

    async fn send_at_once(&self, numbers: std::ops::RangeInclusive<u32>) -> Result<(), Failure> {
        let tasks: Vec<Task> = stream::iter(numbers)
            .map(|number| self.upload(number))
            .buffer_unordered(UPLOADS)
            .try_collect()
            .await?;
        stream::iter(&tasks)
            .map(|task| self.send_task(task))
            .buffer_unordered(SENDS)
            .try_collect()
            .await
    }

    /// Puts an original into the bucket. Its key tells the knowledge base, which is created after it.
    async fn upload(&self, number: u32) -> Result<Task, Failure> {
        let topic = &self.common.settings.config.source.kafka.topic;
        let knowledge_base = &self.knowledge_base;
        let id = uuid::Uuid::new_v4();
        let name = format!("load-{number:05}.pdf");
        let task = Task {
            task_id: format!("{USERNAME}_task-{id}"),
            username: USERNAME.to_owned(),
            knowledge_base: knowledge_base.clone(),
            file: FileMeta {
                file_id: format!("{USERNAME}_{id}"),
                key: format!("{}/{knowledge_base}_{number:05}.pdf", folder(topic)),
                name,
                url: None,
                version: None,
            },
        };
        task.check()?;
        let retry = self.common.retry();
        if self.stop.is_cancelled() {
            return Ok(task);
        }
        self.note(Sent {
            file_id: task.file.file_id.clone(),
            key: task.file.key.clone(),
            at: None,
        });
        let text = format!("{knowledge_base}-{}", task.file.name);
        let pdf = Bytes::from(documents::pdf(&text, self.args.pages));
        let objects = &self.stores.objects;
        let put = |_| objects.put(&task.file.key, pdf.clone(), "application/pdf");
        retry.run(Stage::Objects, &self.stop, put).await?;
        let documents = &self.stores.documents;
        let ensure = |_| documents.ensure_knowledge_base(knowledge_base, knowledge_base, USERNAME);
        let create = || retry.run(Stage::Mongodb, &self.stop, ensure);
        self.exists.get_or_try_init(create).await?;
        Ok(task)
    }

    async fn send_task(&self, task: &Task) -> Result<(), Failure> {
        if self.stop.is_cancelled() {
            return Ok(());
        }
        let attempt = |_| self.outbox.send_new(task);
        let retry = self.common.retry();
        retry.run(Stage::Intake, &self.stop, attempt).await?;
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        let file_id = &task.file.file_id;
        if let Some(found) = sent.iter_mut().find(|sent| sent.file_id == *file_id) {
            found.at = Some(Instant::now());
        }
        Ok(())
    }

    fn note(&self, document: Sent) {
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        sent.push(document);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_an_original_tells_its_knowledge_base() {
        let id = "layraload_26eba553-dbee-474c-987f-6bd8c0ed6e1a";
        let key = format!("{}/{id}_00007.pdf", folder("layra.tasks"));
        assert_eq!(knowledge_base_of(&key), Some(id));
        for other in [
            "",
            "a.pdf",
            "layra-load/t/a.pdf",
            "layra-load/t/roger_1_2.pdf",
        ] {
            assert_eq!(knowledge_base_of(other), None, "{other}");
        }
    }
}
