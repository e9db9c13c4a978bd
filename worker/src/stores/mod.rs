//! The stores that a document ends up in, the ledger that remembers how far it is, and the progress
//! that users see.

pub mod ledger;
pub mod milvus;
pub mod mongo;
pub mod objects;
pub mod presign;
pub mod progress;

use std::sync::Arc;

use layra_crds::MilvusSpec;

use ledger::Ledger;
use milvus::Vectors;
use mongo::Documents;
use objects::Objects;

/// All stores of a pipeline.
#[derive(Clone, Debug)]
pub struct Stores {
    /// Originals and page images.
    pub objects: Objects,
    /// Files and knowledge bases.
    pub documents: Documents,
    /// What is known of every document.
    pub ledger: Ledger,
    /// Vectors.
    pub vectors: Arc<Vectors>,
    /// Names of collections.
    pub milvus: MilvusSpec,
}

impl Stores {
    /// The name of a knowledge base's collection.
    #[must_use]
    pub fn collection_of(&self, knowledge_base: &str) -> String {
        self.milvus.collection_of(knowledge_base)
    }
}
