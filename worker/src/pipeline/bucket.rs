//! Brings the documents of an object to what the bucket holds, with `source.kafka.format: S3Event`.
//!
//! Each version of an object is a document of its own, so an old version stays searchable until the
//! new one is stored. The bucket decides what is ingested and what is removed; a notification only
//! says for which object to ask. Nothing is deleted from the bucket.

use tokio_util::sync::CancellationToken;

use super::admit::Job;
use super::{Outcome, Pipeline};
use crate::document::bucket::Bucket;
use crate::document::task::{FileMeta, ObjectVersion, Task};
use crate::runtime::failure::{Class, Failure, Reason, Stage};
use crate::stores::ledger::{Entry, State};

/// What the bucket holds of an object, after its documents were compared with that.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Compared {
    /// The document that the object is. `None`: the bucket does not hold it.
    pub(crate) task: Option<Task>,
    /// Whether the ledger has marked that document as gone: the object was written again at the
    /// same time, and perhaps its notification was processed before.
    pub(crate) is_back: bool,
}

impl Pipeline {
    /// Removes what must not be searchable any more of the versions of an object.
    pub(crate) async fn compare_object(
        &self,
        bucket: &Bucket,
        key: &str,
        cancel: &CancellationToken,
    ) -> Result<Compared, Failure> {
        let attempt = |_| Box::pin(self.compare_once(bucket, key, cancel));
        self.retry.run(Stage::Mongodb, cancel, attempt).await
    }

    async fn compare_once(
        &self,
        bucket: &Bucket,
        key: &str,
        cancel: &CancellationToken,
    ) -> Result<Compared, Failure> {
        let object = bucket.object(key);
        loop {
            // The ledger first: a version that it has now and that is not in the bucket afterwards
            // is an old one. It also looks again after each removal.
            let known = self.stores.ledger.versions_of(&object).await?;
            let version = self.stores.objects.version(key).await?;
            let task = version
                .map(|version| bucket.task(key, &version))
                .transpose()?;
            let current = task.as_ref().map(|task| task.file.file_id.as_str());
            let Some(stale) = stale(&known, current) else {
                let entry = match current {
                    Some(id) => self.stores.ledger.find(id).await?,
                    None => None,
                };
                let is_back = entry.is_some_and(|entry| {
                    entry.state == State::Deleted && !entry.deletion_requested
                });
                return Ok(Compared { task, is_back });
            };
            let Some(gone) = self.stores.ledger.mark_gone(stale).await? else {
                let message = "the document of an object changed while it was to be removed";
                return Err(Failure::transient(
                    Stage::Mongodb,
                    Reason::BeingRemoved,
                    message,
                ));
            };
            match Box::pin(self.withdraw_with_retries(&gone, cancel)).await {
                // It was put into the bucket again, or a deletion removes it.
                Err(failure) if failure.class == Class::Superseded => {}
                withdrawn => withdrawn?,
            }
            tracing::info!(
                file_id = gone.file_id,
                key,
                is_replaced = current.is_some(),
                "an object changed in the bucket, its former document is removed"
            );
        }
    }

    /// Whether the stores hold another version of the task's object, which the task replaces. Then
    /// it needs no room.
    pub(super) async fn replaces_version(&self, task: &Task) -> Result<bool, Failure> {
        let Some(ObjectVersion { object, .. }) = &task.file.version else {
            return Ok(false);
        };
        let known = self.stores.ledger.versions_of(object).await?;
        let is_stored = |other: &Entry| {
            other.state == State::Done
                && other.file_id != task.file.file_id
                && other.knowledge_db_id == task.knowledge_base
        };
        Ok(known.iter().any(is_stored))
    }

    /// Creates the knowledge base of an object's document, unless somebody asked for its deletion
    /// since. Returns whether it exists.
    pub(super) async fn create_knowledge_base(
        &self,
        job: &Job<'_>,
        cancel: &CancellationToken,
    ) -> Result<bool, Failure> {
        let (id, FileMeta { key, version, .. }) = (&job.task.knowledge_base, &job.task.file);
        let (Some(bucket), Some(_)) = (&self.bucket, version) else {
            return Ok(false);
        };
        let documents = &self.stores.documents;
        let alike = self.ledger(cancel, || documents.knowledge_bases_like(id));
        let collection = self.stores.collection_of(id);
        let shares =
            |other: &&String| *other != id && self.stores.collection_of(other) == collection;
        if let Some(other) = alike.await?.iter().find(shares) {
            let message = format!(
                "knowledge base {id} would share the collection {collection} with knowledge base \
                 {other}. Rename the folder"
            );
            return Err(Failure::permanent(
                Stage::Mongodb,
                Reason::InvalidTask,
                message,
            ));
        }
        let is_deleted = || self.knowledge_base_deletion(job);
        if self.ledger(cancel, is_deleted).await?.is_some() {
            return Ok(false);
        }
        let name = bucket.knowledge_base_name(key).unwrap_or(id);
        let create = || documents.ensure_knowledge_base(id, name, &job.task.username);
        self.ledger(cancel, create).await?;
        tracing::info!(knowledge_base = id, "knowledge base created");
        // A deletion that began meanwhile removes the knowledge base after this, or has not seen
        // it.
        Ok(self.ledger(cancel, is_deleted).await?.is_none())
    }
}

/// Whether the message of a request may continue a document that is in progress. Objects are
/// written often, each time with a notification: while the message of one of them is processed, the
/// others have nothing to do. If that message is lost, a recheck sends the task again.
pub(super) fn leaves_to_other_message(job: &Job<'_>, entry: &Entry) -> Option<Outcome> {
    let is_version = job.task.file.version.is_some();
    let is_others = is_version && !entry.is_requested_by(&job.request.sent);
    is_others.then_some(Outcome::Superseded)
}

/// One of the versions that must not be searchable any more. Old versions that are stored stay
/// until the current one is.
fn stale<'a>(known: &'a [Entry], current: Option<&str>) -> Option<&'a Entry> {
    let is_current = |entry: &Entry| current == Some(entry.file_id.as_str());
    let is_stored = known
        .iter()
        .any(|entry| is_current(entry) && entry.state == State::Done);
    known.iter().find(|entry| {
        !is_current(entry) && (current.is_none() || is_stored || entry.state == State::Working)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::stores::ledger::an_entry;

    fn version(id: &str, state: State) -> Entry {
        Entry {
            file_id: id.into(),
            ..an_entry(state)
        }
    }

    fn stale_id(known: &[Entry], current: Option<&str>) -> Option<String> {
        stale(known, current).map(|entry| entry.file_id.clone())
    }

    #[test]
    fn an_old_version_stays_until_the_new_one_is_stored() {
        let old = version("old", State::Done);
        let known = |state| [old.clone(), version("new", state)];
        assert_eq!(stale_id(std::slice::from_ref(&old), Some("new")), None);
        assert_eq!(stale_id(&known(State::Working), Some("new")), None);
        assert_eq!(stale_id(&known(State::Failed), Some("new")), None);
        let stored = stale_id(&known(State::Done), Some("new"));
        assert_eq!(stored.as_deref(), Some("old"));
    }

    #[test]
    fn nothing_stays_of_an_object_that_is_gone() {
        for state in [State::Working, State::Done, State::Failed] {
            let known = [version("old", state)];
            assert_eq!(stale_id(&known, None).as_deref(), Some("old"));
        }
    }

    #[test]
    fn an_old_version_that_is_not_stored_ends_at_once() {
        let known = [
            version("older", State::Done),
            version("old", State::Working),
        ];
        assert_eq!(stale_id(&known, Some("new")).as_deref(), Some("old"));
    }

    /// What a worker does with a notification, without the time in between.
    fn process(stored: &mut BTreeMap<u8, State>, object: Option<u8>, fails: &BTreeSet<u8>) {
        let compare = |stored: &mut BTreeMap<u8, State>| {
            let current = object.map(|version| version.to_string());
            loop {
                let known: Vec<Entry> = stored
                    .iter()
                    .map(|(id, state)| version(&id.to_string(), *state))
                    .collect();
                let Some(stale) = stale_id(&known, current.as_deref()) else {
                    break;
                };
                stored.remove(&stale.parse().unwrap());
            }
        };
        compare(stored);
        if let Some(object) = object {
            let state = if fails.contains(&object) {
                State::Failed
            } else {
                State::Done
            };
            stored.insert(object, state);
            compare(stored);
        }
    }

    proptest! {
        /// Whatever is written, overwritten and removed, in whatever order the notifications come,
        /// late and repeatedly: once each object's last one was processed, exactly what the bucket
        /// holds is stored.
        #[test]
        fn any_order_of_notifications_ends_with_what_the_bucket_holds(
            writes in proptest::collection::vec(proptest::option::of(0..3_u8), 1..8),
            order in proptest::collection::vec(any::<bool>(), 0..24),
        ) {
            let mut stored = BTreeMap::new();
            let (mut object, mut written, nothing) = (None, 0, BTreeSet::new());
            for writes_first in order {
                if writes_first && written < writes.len() {
                    object = writes[written];
                    written += 1;
                }
                // Any notification, of this write or of an earlier one.
                if written > 0 {
                    process(&mut stored, object, &nothing);
                }
            }
            object = *writes.last().unwrap();
            process(&mut stored, object, &nothing);
            let expected: Vec<u8> = object.into_iter().collect();
            prop_assert_eq!(stored.into_keys().collect::<Vec<_>>(), expected);
        }

        /// A version that cannot be processed leaves the one before it searchable, as long as the
        /// bucket holds an object.
        #[test]
        fn a_failed_version_replaces_nothing(good in 0..3_u8) {
            let fails = BTreeSet::from([9]);
            let mut stored = BTreeMap::new();
            process(&mut stored, Some(good), &fails);
            process(&mut stored, Some(9), &fails);
            prop_assert_eq!(stored.get(&good), Some(&State::Done));
            process(&mut stored, None, &fails);
            prop_assert!(stored.is_empty());
        }
    }
}
