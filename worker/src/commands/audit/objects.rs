//! Objects that no document names, and documents that no knowledge base has.

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use super::decide::{self, Leftover, Verdict};
use super::report::Kind;
use super::{Audit, finding};
use crate::runtime::failure::{Class, Failure, Reason};
use crate::stores::ledger::Entry;

/// Objects without a document that are decided on in one audit.
const MOST_CANDIDATES: usize = 100_000;

/// A task is sent within this time, in milliseconds, after the upload of its original.
const SENT_AFTER_UPLOAD: i64 = 3_600_000;

/// The keys that documents name: eight bytes of each. Two keys that share them only hide an orphan.
#[derive(Debug, Default)]
struct Keys(HashSet<u64>);

impl Keys {
    fn insert(&mut self, key: &str) {
        self.0.insert(hash(key));
    }

    fn contains(&self, key: &str) -> bool {
        self.0.contains(&hash(key))
    }
}

fn hash(key: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

impl Audit {
    pub(super) async fn objects(&mut self, bases: &HashSet<String>) -> Result<(), Failure> {
        let mut named = Keys::default();
        let mut loose = Vec::new();
        let visit = |file_id, file: crate::stores::mongo::StoredFile| {
            file.pages.iter().for_each(|(_, key)| named.insert(key));
            file.original.iter().for_each(|key| named.insert(key));
            let base = file.knowledge_base.unwrap_or_default();
            if !bases.contains(&base) {
                loose.push((file_id, base));
            }
        };
        self.stores.documents.each_file(visit).await?;
        for (file_id, base) in loose {
            let kind = Kind::DocumentWithoutKnowledgeBase;
            let note = format!("knowledge base {base} does not exist");
            let why = "`layra-worker delete --knowledge-base` removes such documents";
            let finding = finding(kind, &file_id, Some(&base), note);
            self.note(Verdict::Keep(why), finding);
        }

        let (mut candidates, mut checked, mut more) = (BTreeMap::new(), 0, 0);
        let age = self.age;
        let visit = |key: &str, written_at| {
            if !decide::is_layras_key(key) {
                return;
            }
            checked += 1;
            if named.contains(key) || !age.is_old(Some(written_at)) {
                return;
            }
            if candidates.len() < MOST_CANDIDATES {
                candidates.insert(key.to_owned(), written_at);
            } else {
                more += 1;
            }
        };
        self.stores.objects.each_object(None, visit).await?;
        self.report.objects = checked;
        if more > 0 {
            let what = format!("{more} further objects without a document: audit again");
            self.report.unchecked.push(what);
        }
        if candidates.is_empty() {
            return Ok(());
        }
        for (file_id, keys) in self.of_ledger(&mut candidates).await? {
            self.images(&file_id, keys).await?;
        }
        self.unknown_objects(candidates).await
    }

    /// Takes those objects from `candidates` that an entry of the ledger names. Returns those that
    /// are page images, by file. The original of an entry is no finding: it is kept for a redrive.
    async fn of_ledger(
        &self,
        candidates: &mut BTreeMap<String, i64>,
    ) -> Result<BTreeMap<String, Vec<String>>, Failure> {
        let mut images: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let remover = self.remover();
        let visit = |entry: Entry| {
            candidates.remove(&entry.minio_filename);
            for key in remover.image_keys(&entry) {
                if candidates.remove(&key).is_some() {
                    images.entry(entry.file_id.clone()).or_default().push(key);
                }
            }
        };
        self.stores.ledger.each_entry(None, visit).await?;
        Ok(images)
    }

    /// Page images of a file that no document names.
    async fn images(&mut self, file_id: &str, keys: Vec<String>) -> Result<(), Failure> {
        let Some(entry) = self.stores.ledger.find(file_id).await? else {
            return Ok(());
        };
        let found = Leftover {
            entry: Some((entry.state, entry.updated_at.timestamp_millis())),
            is_own: self.stores.ledger.owns(&entry),
            first_seen: None,
        };
        let mut verdict = decide::leftover(self.age, found);
        let archive = self.stores.archives.find(&entry.knowledge_db_id).await?;
        if verdict == Verdict::Remove && archive.is_some_and(|archive| archive.is_away()) {
            verdict = Verdict::Keep("its knowledge base is archived, and may be restored");
        }
        let mut remove = Vec::new();
        for key in keys {
            let note = format!("a page image of file {file_id}, which does not name it");
            let kind = Kind::ObjectWithoutDocument;
            let base = Some(entry.knowledge_db_id.as_str());
            remove.extend(self.note(verdict, finding(kind, &key, base, note)));
        }
        if remove.is_empty() {
            return Ok(());
        }
        let keys = remove.iter().map(|finding| finding.name.clone()).collect();
        if self.remove_images(&entry, keys).await? {
            for finding in remove {
                self.removed(finding);
            }
        }
        Ok(())
    }

    /// Removes page images under the lease of their document, so that no worker writes them at the
    /// same time. `false`: the document is in work again, or names one of them.
    async fn remove_images(&self, entry: &Entry, keys: Vec<String>) -> Result<bool, Failure> {
        let ledger = &self.stores.ledger;
        let lease = match ledger.lease(entry).await {
            Err(failure) if is_changed(&failure) => return Ok(false),
            lease => lease?,
        };
        let removal = async {
            let stored = self.stores.documents.stored_file(&entry.file_id).await?;
            let pages = stored.unwrap_or_default().pages;
            if pages.iter().any(|(_, key)| keys.contains(key)) {
                return Ok(false);
            }
            self.stores.objects.delete_all(keys).await?;
            Ok(true)
        };
        let removed = match ledger.under_lease(&lease, Box::pin(removal)).await {
            Err(failure) if is_changed(&failure) => return Ok(false),
            removed => removed?,
        };
        ledger.end_lease(&lease).await?;
        Ok(removed)
    }

    /// Objects that neither a document nor the ledger names. They may be the originals of queued
    /// tasks, or of tasks that failed before they were entered: they are never removed.
    async fn unknown_objects(&mut self, candidates: BTreeMap<String, i64>) -> Result<(), Failure> {
        let Some(newest) = candidates.values().max().copied() else {
            return Ok(());
        };
        let sent_until = newest.saturating_add(SENT_AFTER_UPLOAD).min(self.age.now);
        if !self.committed.is_everything_before(sent_until).await? {
            let count = candidates.len();
            let what = format!("{count} objects without a document, because tasks are queued");
            self.report.unchecked.push(what);
            return Ok(());
        }
        for key in candidates.into_keys() {
            let note = "neither a document nor the ledger names it".to_owned();
            let why = "it may be the original of a task that failed";
            let finding = finding(Kind::ObjectWithoutDocument, &key, None, note);
            self.note(Verdict::Keep(why), finding);
        }
        Ok(())
    }
}

/// Whether a worker, or a deletion, has the document now.
pub(super) fn is_changed(failure: &Failure) -> bool {
    failure.class == Class::Superseded || failure.reason == Reason::BeingRemoved
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_a_document_names_is_known() {
        let mut keys = Keys::default();
        keys.insert("a_b_1.png");
        assert!(keys.contains("a_b_1.png"));
        assert!(!keys.contains("a_b_2.png"));
    }
}
