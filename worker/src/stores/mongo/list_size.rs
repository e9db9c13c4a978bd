//! The size of a knowledge base's entry, in which LAYRA lists its files. MongoDB accepts 16 MB.

use futures::TryStreamExt as _;
use mongodb::bson::{DateTime, doc};
use mongodb::error::ErrorKind;

use super::{Documents, answer, ask, list_entry};
use crate::document::task::Task;
use crate::runtime::failure::Failure;

/// The size of a knowledge base's entry with one more file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ListSize {
    pub(crate) bytes: u64,
    /// MongoDB has measured it. Otherwise it is the number of files, times the size of the new one.
    pub(crate) is_exact: bool,
}

impl Documents {
    /// The size of the entry of a task's knowledge base, with the task's file.
    pub(crate) async fn list_size(&self, task: &Task, url: &str) -> Result<ListSize, Failure> {
        let id = &task.knowledge_base;
        let new = entry_bytes(task, url);
        let measure = self.knowledge_bases.aggregate([
            doc! { "$match": { "knowledge_base_id": id } },
            doc! { "$project": { "_id": 0, "bytes": { "$bsonSize": "$$ROOT" } } },
        ]);
        match answer(measure).await? {
            Ok(mut found) => {
                let found = ask(found.try_next()).await?;
                let bytes =
                    found.and_then(|found| u64::try_from(found.get_i32("bytes").ok()?).ok());
                Ok(ListSize {
                    bytes: bytes.unwrap_or(0) + new,
                    is_exact: true,
                })
            }
            // A server before 4.4, or another one with MongoDB's protocol.
            Err(error) if matches!(*error.kind, ErrorKind::Command(_)) => {
                let of_base = doc! { "knowledge_db_id": id };
                let files = ask(self.files.count_documents(of_base)).await?;
                Ok(ListSize {
                    bytes: (files + 1).saturating_mul(new),
                    is_exact: false,
                })
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Bytes that the file of a task takes in the list.
fn entry_bytes(task: &Task, url: &str) -> u64 {
    let entry = list_entry(task, url, DateTime::now());
    let bytes = mongodb::bson::serialize_to_vec(&entry).map_or(0, |bytes| bytes.len());
    // With its type and an index of six characters.
    u64::try_from(bytes + 8).unwrap_or(u64::MAX)
}
