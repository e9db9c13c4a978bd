//! Collections that no knowledge base has.

use super::decide::{self, LooseCollection};
use super::report::Kind;
use super::{Audit, finding, id_in};
use crate::runtime::failure::Failure;
use crate::stores::mongo::pattern_like;

impl Audit {
    /// A collection whose name has the form of this pipeline's, and that no knowledge base has.
    pub(super) async fn loose_collection(&mut self, name: &str) -> Result<(), Failure> {
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
        let found = LooseCollection {
            created_at: description.created_at,
            has_layras_schema: description.has_layras_schema,
            is_known: decide::ends_like_layras_id(&id) || ledger.knows_bases_like(&pattern).await?,
            in_work: ledger.is_working_on_bases_like(&pattern).await?,
        };
        let verdict = decide::collection(self.age, found);
        let note = "no knowledge base has this collection".to_owned();
        let kind = Kind::CollectionWithoutKnowledgeBase;
        let Some(finding) = self.note(verdict, finding(kind, name, None, note)) else {
            return Ok(());
        };
        // It looks for the knowledge base again.
        self.stores.drop_unused_collection(&id).await?;
        if !self.stores.vectors.has_collection(name).await? {
            self.removed(finding);
        }
        Ok(())
    }
}
