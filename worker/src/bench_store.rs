//! The store stage's way to Milvus, for `examples/bench_milvus.rs`. The rest of the crate is
//! private to it.

use layra_crds::MilvusSpec;

use crate::stores::milvus::{PageVectors, SearchLimits, Vectors};

/// A collection, as the store stage writes to it.
pub struct BenchStore {
    vectors: Vectors,
    reader: Vectors,
    collection: String,
}

impl BenchStore {
    /// Connects without authentication and creates the collection if it does not exist.
    /// `dimensions` is the width of a vector.
    pub async fn connect(
        spec: &MilvusSpec,
        collection: &str,
        dimensions: usize,
    ) -> anyhow::Result<Self> {
        let vectors = Vectors::connect(spec, None, None, dimensions).await?;
        vectors.ensure_collection(collection).await?;
        // The index is the collection's; this one only says that `ef` applies.
        let reader = vectors.with_hnsw((dimensions, spec.vector_type), 0, 0);
        Ok(Self {
            vectors,
            reader,
            collection: collection.to_owned(),
        })
    }

    /// Inserts the vectors of pages in one request. `pages` are the page's number, from 0, and its
    /// vectors. Returns the number of rows.
    pub async fn insert(
        &self,
        file_id: &str,
        pages: Vec<(u32, Vec<Vec<f32>>)>,
    ) -> anyhow::Result<u64> {
        let pages: Vec<PageVectors> = pages
            .into_iter()
            .map(|(page, vectors)| PageVectors {
                image_id: format!("{file_id}-{page}"),
                page,
                vectors,
            })
            .collect();
        let rows = self.vectors.insert(&self.collection, file_id, &pages);
        Ok(rows.await?)
    }

    /// Searches for the nearest vectors of each of the question's, without a wait for the latest
    /// writes. Returns the number of pages that were found.
    pub async fn search(
        &self,
        question: &[Vec<f32>],
        ef: u32,
        candidates: u32,
    ) -> anyhow::Result<usize> {
        let limits = SearchLimits { ef, candidates };
        let found = self.reader.candidates(&self.collection, question, limits);
        Ok(found.await?.len())
    }
}
