//! The documents of a knowledge base: what MongoDB and the ledger say, and the rows in Milvus.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt, stream};

use super::decide::{self, Leftover, Verdict};
use super::report::{Kind, Outcome};
use super::{Audit, finding};
use crate::document::task::Task;
use crate::runtime::failure::{Class, Failure, Reason, Stage};
use crate::stores::ledger::{Entry, State};

/// Documents that are looked up in one request.
const AT_ONCE: usize = 100;
/// Files whose rows are counted at the same time.
const CONCURRENT_COUNTS: usize = 8;
/// Milvus' keys are positive.
const BEFORE_ALL: i64 = -1;

/// What the ledger says about a document.
#[derive(Clone, Copy, Debug)]
struct Known {
    state: State,
    is_own: bool,
    rows: Option<u64>,
    pages: Option<u32>,
}

impl Audit {
    pub(super) async fn knowledge_base(&mut self, id: &str) -> Result<(), Failure> {
        let stores = &self.stores;
        let files: BTreeSet<String> = stores.documents.files_of(id).await?.into_iter().collect();
        let mut known = BTreeMap::new();
        let ledger = &stores.ledger;
        let visit = |entry: Entry| {
            let is_own = ledger.owns(&entry);
            let facts = Known {
                state: entry.state,
                is_own,
                rows: entry.vectors,
                pages: entry.good_pages(),
            };
            known.insert(entry.file_id, facts);
        };
        ledger.each_entry(Some(id), visit).await?;

        self.list_of_files(id, &files, &known).await?;
        let archive = self.stores.archives.find(id).await?;
        if archive.is_some_and(|archive| archive.is_away()) {
            return Ok(());
        }
        let collection = self.stores.collection_of(id);
        let why = match self.rows(id, &collection, &files, &known).await {
            // It was dropped meanwhile.
            Err(failure) if failure.reason == Reason::CollectionGone => "is gone",
            Err(failure) if failure.reason == Reason::CollectionMoving => "is being rebuilt",
            Ok(false) => "is not loaded",
            Ok(true) => return Ok(()),
            Err(failure) => return Err(failure),
        };
        let what = format!("the rows of collection {collection}, which {why}");
        self.report.unchecked.push(what);
        Ok(())
    }

    /// Compares the list of the knowledge base with `files`.
    async fn list_of_files(
        &mut self,
        id: &str,
        files: &BTreeSet<String>,
        known: &BTreeMap<String, Known>,
    ) -> Result<(), Failure> {
        for (file_id, entered) in self.stores.documents.listed_files(id).await? {
            let in_work = known
                .get(&file_id)
                .is_some_and(|known| known.state == State::Working);
            if files.contains(&file_id) || in_work {
                continue;
            }
            let entered = entered.map(mongodb::bson::DateTime::timestamp_millis);
            let verdict = if self.age.is_old(entered) {
                Verdict::Remove
            } else {
                Verdict::None
            };
            let note = "`files` has no such document".to_owned();
            let kind = Kind::EntryWithoutDocument;
            let Some(finding) = self.note(verdict, finding(kind, &file_id, Some(id), note)) else {
                continue;
            };
            let documents = &self.stores.documents;
            if documents.stored_file(&file_id).await?.is_none() {
                documents.unlist_file(id, &file_id).await?;
                self.removed(finding);
            }
        }
        Ok(())
    }

    /// Counts the rows of each document, and finds rows of other files. `false`: the collection is
    /// not loaded. A rebuild that puts another collection in its place makes it fail.
    async fn rows(
        &mut self,
        id: &str,
        collection: &str,
        files: &BTreeSet<String>,
        known: &BTreeMap<String, Known>,
    ) -> Result<bool, Failure> {
        let vectors = &self.stores.vectors;
        vectors.ensure_settled(collection).await?;
        // It may have been created, restored or dropped since the audit began.
        let exists = vectors.has_collection(collection).await?;
        if exists && !vectors.is_loaded(collection).await? {
            return Ok(false);
        }
        let counted = if exists {
            self.count(collection, files).await?
        } else {
            files.iter().map(|file_id| (file_id.clone(), 0)).collect()
        };
        // What was counted is what documents have, unless it moved meanwhile.
        self.stores.vectors.ensure_settled(collection).await?;
        let archive = self.stores.archives.find(id).await?;
        if archive.is_some_and(|archive| archive.is_away()) {
            return Ok(true);
        }
        self.report.documents += counted.len();
        let counted: Vec<(String, u64)> = counted.into_iter().collect();
        for chunk in counted.chunks(AT_ONCE) {
            self.compare(id, chunk, known).await?;
        }
        if !exists {
            return Ok(true);
        }
        let total = self.stores.vectors.count_all(collection).await?;
        if total != counted.iter().map(|(_, rows)| rows).sum::<u64>() {
            for (file_id, rows) in self.strangers(collection, files).await? {
                self.stray_rows(id, collection, &file_id, rows).await?;
            }
        }
        Ok(true)
    }

    pub(super) async fn count(
        &self,
        collection: &str,
        files: &BTreeSet<String>,
    ) -> Result<BTreeMap<String, u64>, Failure> {
        let counts: Vec<_> = files
            .iter()
            .map(|file_id| async move {
                let rows = self.stores.vectors.count_file(collection, file_id).await?;
                Ok((file_id.clone(), rows))
            })
            .collect();
        stream::iter(counts)
            .buffer_unordered(CONCURRENT_COUNTS)
            .try_collect()
            .await
    }

    /// Compares rows and pages of documents with what the ledger says.
    async fn compare(
        &mut self,
        id: &str,
        counted: &[(String, u64)],
        known: &BTreeMap<String, Known>,
    ) -> Result<(), Failure> {
        let ids = counted.iter().map(|(file_id, _)| file_id.clone()).collect();
        let stored = self.stores.documents.stored_files(ids).await?;
        let pages: BTreeMap<String, usize> = stored
            .into_iter()
            .map(|(file_id, file)| (file_id, file.pages.len()))
            .collect();
        for (file_id, rows) in counted {
            let Some(pages) = pages.get(file_id).copied() else {
                continue;
            };
            match known.get(file_id) {
                Some(known) if known.state == State::Done => {
                    let good = known.pages.and_then(|pages| usize::try_from(pages).ok());
                    if known.rows != Some(*rows) || good != Some(pages) {
                        self.incomplete(id, file_id, *known, *rows, pages).await?;
                    }
                }
                // LAYRA, or another program, stored it.
                None if *rows == 0 && pages > 0 => {
                    let note = format!("{pages} pages without rows");
                    let kind = Kind::DocumentIncomplete;
                    let why = "the ledger does not know the document: upload it again";
                    let finding = finding(kind, file_id, Some(id), note);
                    self.note(Verdict::Keep(why), finding);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A document that is done, and that the stores do not hold exactly once. Its task is sent
    /// again, as the repetition of the request that the ledger knows: the worker that receives it
    /// finds the difference and begins a new round, unless a deletion came after that request.
    async fn incomplete(
        &mut self,
        id: &str,
        file_id: &str,
        known: Known,
        rows: u64,
        pages: usize,
    ) -> Result<(), Failure> {
        let note = format!(
            "{rows} rows and {pages} pages, the ledger says {} and {}",
            known.rows.unwrap_or_default(),
            known.pages.unwrap_or_default()
        );
        let mut finding = finding(Kind::DocumentIncomplete, file_id, Some(id), note);
        if !known.is_own {
            self.note(Verdict::Keep("another pipeline stored it"), finding);
            return Ok(());
        }
        if self.repair {
            let entry = self.stores.ledger.find(file_id).await?;
            let Some(entry) = entry.filter(|entry| entry.state == State::Done) else {
                return Ok(());
            };
            let (task, request) = (Task::from(&entry), entry.requested());
            let send = |_| self.outbox.send_task(&task, &request);
            let never = tokio_util::sync::CancellationToken::new();
            self.retry.run(Stage::DeadLetter, &never, send).await?;
            finding.outcome = Outcome::Requeued;
        }
        self.report.add(finding);
        Ok(())
    }

    /// The other files that have rows in a collection, and how many.
    pub(super) async fn strangers(
        &self,
        collection: &str,
        files: &BTreeSet<String>,
    ) -> Result<BTreeMap<String, u64>, Failure> {
        let mut strangers: BTreeMap<String, u64> = BTreeMap::new();
        let mut last = BEFORE_ALL;
        loop {
            let vectors = &self.stores.vectors;
            let rows = vectors.file_ids_after(collection, last).await?;
            let Some((pk, _)) = rows.last() else {
                return Ok(strangers);
            };
            last = *pk;
            for (_, file_id) in rows {
                if !files.contains(&file_id) {
                    *strangers.entry(file_id).or_default() += 1;
                }
            }
        }
    }

    /// Rows of a file that was not in `files` when the audit began.
    async fn stray_rows(
        &mut self,
        id: &str,
        collection: &str,
        file_id: &str,
        rows: u64,
    ) -> Result<(), Failure> {
        let stored = self.stores.documents.stored_file(file_id).await?;
        let base = stored.as_ref().and_then(|file| file.knowledge_base.clone());
        if base.as_deref() == Some(id) {
            // It was entered meanwhile.
            return Ok(());
        }
        let entry = self.stores.ledger.find(file_id).await?;
        let first_seen = if self.repair && entry.is_none() {
            let what = format!("rows {collection} {file_id}");
            Some(self.stores.ledger.first_seen(&what).await?)
        } else {
            None
        };
        let found = Leftover {
            entry: entry
                .as_ref()
                .map(|entry| (entry.state, entry.updated_at.timestamp_millis())),
            is_own: entry
                .as_ref()
                .is_some_and(|entry| self.stores.ledger.owns(entry)),
            first_seen: first_seen.map(mongodb::bson::DateTime::timestamp_millis),
        };
        let (verdict, note) = match &base {
            None => (
                decide::leftover(self.age, found),
                format!("{rows} rows, and `files` has no such document"),
            ),
            // The removal of a document removes it from its own knowledge base.
            Some(other) => (
                Verdict::Keep("its vectors are in the wrong collection"),
                format!("{rows} rows, and the document belongs to knowledge base {other}"),
            ),
        };
        let kind = Kind::RowsWithoutDocument;
        let Some(finding) = self.note(verdict, finding(kind, file_id, Some(id), note)) else {
            return Ok(());
        };
        match entry {
            Some(entry) => match Box::pin(self.remover().withdraw(&entry)).await {
                // It is in work again.
                Err(failure) if failure.class == Class::Superseded => return Ok(()),
                Err(failure) if failure.reason == Reason::BeingRemoved => return Ok(()),
                withdrawn => withdrawn?,
            },
            None => {
                self.stores.vectors.delete_file(collection, file_id).await?;
            }
        }
        self.removed(finding);
        Ok(())
    }
}
