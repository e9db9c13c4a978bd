//! Collections that no knowledge base has.

use super::decide::{self, Database, LooseCollection};
use super::report::Kind;
use super::{Audit, finding, id_in};
use crate::runtime::failure::{Failure, Reason};
use crate::stores::mongo::pattern_like;

impl Audit {
    /// A collection whose name has the form of this pipeline's, and that no knowledge base has.
    pub(super) async fn loose_collection(
        &mut self,
        name: &str,
        database: Database,
    ) -> Result<(), Failure> {
        let stores = &self.stores;
        let (Some(id), Some(description)) = (
            id_in(&stores.milvus, name),
            stores.vectors.describe(name).await?,
        ) else {
            return Ok(());
        };
        let id = id.to_owned();
        let pattern = pattern_like(&id);
        let ledger = &stores.ledger;
        let archives = stores.archives.like(&pattern).await?;
        let is_archived = archives
            .iter()
            .any(|archive| stores.collection_of(&archive.knowledge_base) == name);
        let is_recorded = ledger.knows_bases_like(&pattern).await?;
        let found = LooseCollection {
            created_at: description.created_at,
            has_layras_schema: description.has_layras_schema,
            evidence: decide::evidence(is_archived, is_recorded, database, &id),
            in_work: ledger.is_working_on_bases_like(&pattern).await?,
        };
        let verdict = decide::collection(self.age, found);
        let note = "no knowledge base has this collection".to_owned();
        let kind = Kind::CollectionWithoutKnowledgeBase;
        let Some(finding) = self.note(verdict, finding(kind, name, None, note)) else {
            return Ok(());
        };
        let dropped = async {
            // It looks for the knowledge base again.
            self.stores.drop_unused_collection(&id).await?;
            self.stores.vectors.has_collection(name).await
        };
        match dropped.await {
            Ok(false) => self.removed(finding),
            Ok(true) => {}
            Err(failure) if failure.reason == Reason::CollectionMoving => {
                let why = format!("collection {name}, which is being rebuilt");
                self.report.unchecked.push(why);
            }
            Err(failure) => return Err(failure),
        }
        Ok(())
    }
}
