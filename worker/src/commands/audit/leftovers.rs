//! Collections of rebuilds that are not going on.

use std::collections::{BTreeMap, BTreeSet};

use layra_crds::is_rebuild_collection;

use super::decide::{self, Leftovers, Verdict};
use super::report::Kind;
use super::{Audit, finding};
use crate::runtime::failure::{Failure, Reason};
use crate::stores::milvus::Described;
use crate::stores::rebuilds::Rebuilds;

/// Documents that are looked up in one request.
const AT_ONCE: usize = 100;

impl Audit {
    /// Looks at the collections of rebuilds whose state MongoDB does not have. `all` was read before:
    /// a state is written before its first collection is created, and removed after the last one was
    /// dropped.
    pub(super) async fn rebuild_leftovers(&mut self, all: &[String]) -> Result<(), Failure> {
        let rebuilds = Rebuilds::new(self.stores.documents.database());
        let going_on = rebuilds.all().await?;
        for name in all.iter().filter(|name| is_rebuild_collection(name)) {
            if going_on.iter().any(|rebuild| rebuild.has_collection(name)) {
                continue;
            }
            let Some(description) = self.stores.vectors.describe(name).await? else {
                continue;
            };
            match self.rebuild_leftover(name, &description).await {
                // It was dropped meanwhile.
                Err(failure) if failure.reason == Reason::CollectionGone => {}
                Err(failure) if failure.reason == Reason::CollectionMoving => {
                    let what = format!("collection {name}, which a rebuild has left: {failure}");
                    self.report.unchecked.push(what);
                }
                looked => looked?,
            }
        }
        Ok(())
    }

    async fn rebuild_leftover(
        &mut self,
        name: &str,
        description: &Described,
    ) -> Result<(), Failure> {
        let is_trial = name.ends_with("_trial");
        let is_old = self.age.of_rebuilds().is_old(Some(description.created_at));
        let (verdict, note) = if !is_trial && self.stores.vectors.is_loaded(name).await? {
            self.compare_leftover(name).await?
        } else if !is_old {
            // Somebody may have created it a moment ago.
            return Ok(());
        } else if is_trial {
            (Verdict::Remove, "an index was tried on it".to_owned())
        } else {
            let why = "it is not loaded, so its rows cannot be compared";
            (Verdict::Keep(why), "a rebuild has left it".to_owned())
        };
        let kind = Kind::RebuildLeftover;
        let Some(finding) = self.note(verdict, finding(kind, name, None, note)) else {
            return Ok(());
        };
        self.stores.vectors.drop_collection(name).await?;
        self.removed(finding);
        Ok(())
    }

    /// Compares the rows with those of the collections that serve.
    async fn compare_leftover(&self, name: &str) -> Result<(Verdict, String), Failure> {
        let rows = self.strangers(name, &BTreeSet::new()).await?;
        let stores = &self.stores;
        let (mut is_recorded, mut documents) = (false, BTreeMap::<String, BTreeSet<String>>::new());
        let ids: Vec<&str> = rows.keys().map(String::as_str).collect();
        for ids in ids.chunks(AT_ONCE) {
            is_recorded |= !stores.ledger.find_all(ids).await?.is_empty();
            let ids = ids.iter().map(|id| (*id).to_owned()).collect();
            for (file_id, file) in stores.documents.stored_files(ids).await? {
                let base = file.knowledge_base.unwrap_or_default();
                documents.entry(base).or_default().insert(file_id);
            }
        }
        let mut lacking = 0;
        for (base, files) in &documents {
            let collection = stores.collection_of(base);
            let counted = if stores.vectors.has_collection(&collection).await? {
                self.count(&collection, files).await?
            } else {
                BTreeMap::new()
            };
            let lacks =
                |file: &&String| counted.get(*file).copied().unwrap_or_default() < rows[*file];
            lacking += files.iter().filter(lacks).count();
        }
        let first_seen = if self.repair {
            let seen = stores.ledger.first_seen(&format!("rebuild {name}")).await?;
            Some(seen.timestamp_millis())
        } else {
            None
        };
        let found = Leftovers {
            is_known: is_recorded || !documents.is_empty(),
            lacking,
            first_seen,
        };
        let files = rows.len();
        let note = format!("a rebuild has left it, with rows of {files} documents");
        let note = match lacking {
            0 => note,
            lacking => {
                format!("{note}, {lacking} of which have fewer in the collection that serves")
            }
        };
        Ok((decide::leftovers(self.age, found), note))
    }
}
