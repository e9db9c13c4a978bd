//! The versions of an object of a bucket: each is a document of its own.

use futures::TryStreamExt;
use mongodb::bson::{DateTime, doc};

use super::cleaning::no_lease;
use super::{Entry, LATE_WRITES, Ledger, after, token, unchanged};
use crate::document::Sent;
use crate::document::task::ObjectVersion;
use crate::runtime::failure::Failure;
use crate::stores::mongo::ask;

impl Ledger {
    /// The versions of an object (`bucket/key`) that are not deleted.
    pub(crate) async fn versions_of(&self, object: &str) -> Result<Vec<Entry>, Failure> {
        let filter = doc! { "object": object, "state": { "$ne": "deleted" } };
        let mut found = ask(self.entries.find(filter)).await?;
        let mut entries = Vec::new();
        while let Some(entry) = ask(found.try_next()).await? {
            entries.push(entry);
        }
        Ok(entries)
    }

    /// Marks a version as deleted that the bucket does not hold any more. Work on it is void from
    /// now on, and a recheck removes it from the stores if the caller does not. `None`: the entry
    /// has changed, or somebody removes the document.
    pub(crate) async fn mark_gone(&self, before: &Entry) -> Result<Option<Entry>, Failure> {
        let now = DateTime::now();
        let set = doc! {
            "state": "deleted", "round": token(), "deletion_requested": false,
            "finished_at": now, "updated_at": now, "recheck_at": after(now, LATE_WRITES),
        };
        let mut filter = unchanged(before);
        filter.extend(no_lease());
        self.update(filter, doc! { "$set": set }).await
    }
}

impl Entry {
    /// The version of the object that the document is, if it is an object of a bucket.
    pub(super) fn version(&self) -> Option<ObjectVersion> {
        Some(ObjectVersion {
            object: self.object.clone()?,
            version: self.object_version.clone()?,
        })
    }

    /// Whether a request is the one that began the round, or the latest one.
    pub(crate) fn is_requested_by(&self, request: &Sent) -> bool {
        self.origin == request.origin || self.requested().origin == request.origin
    }
}
