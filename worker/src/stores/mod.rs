//! The stores that hold a document, the ledger of its state, and the progress that users see.

pub(crate) mod ledger;
pub(crate) mod milvus;
pub(crate) mod mongo;
pub(crate) mod objects;
pub(crate) mod presign;
pub(crate) mod progress;

use std::sync::Arc;

use layra_crds::MilvusSpec;

use ledger::Ledger;
use milvus::Vectors;
use mongo::Documents;
use objects::Objects;

/// All stores of a pipeline.
#[derive(Clone, Debug)]
pub(crate) struct Stores {
    /// Originals and page images.
    pub(crate) objects: Objects,
    /// Files and knowledge bases.
    pub(crate) documents: Documents,
    /// The state of every document.
    pub(crate) ledger: Ledger,
    pub(crate) vectors: Arc<Vectors>,
    /// Determines the names of collections.
    pub(crate) milvus: MilvusSpec,
}

impl Stores {
    /// The name of a knowledge base's collection.
    pub(crate) fn collection_of(&self, knowledge_base: &str) -> String {
        self.milvus.collection_of(knowledge_base)
    }
}
