//! Reads from Milvus: candidates for a question, all vectors of a page, numbers of rows.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use layra_crds::IndexType;
use milvus::v2::prelude as sdk;
use sdk::{ConsistencyLevel, FieldData};

use super::{Vectors, metric, quote, range_filter};
use crate::runtime::failure::{Failure, Reason, Stage};

/// Rows per answer: below gRPC's 4 MiB, and below LAYRA's own limit.
const ROWS_AT_ONCE: usize = 500;
/// Hits per answer. One has two ids of some 60 bytes each and three numbers, so that twice the usual
/// length still stays below gRPC's 4 MiB.
const HITS_AT_ONCE: usize = 16_384;

/// A page with a vector close to one of the question's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hit {
    /// `file_id`
    pub(crate) file_id: String,
    /// `page_number`, from 0.
    pub(crate) page: i64,
}

/// How many vectors a search examines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SearchLimits {
    /// Candidates that an HNSW index examines; raised to `candidates` if it is lower.
    pub(crate) ef: u32,
    /// Nearest vectors that Milvus returns for each vector of the question.
    pub(crate) candidates: u32,
}

impl Vectors {
    /// The pages, by `image_id`, that hold the nearest vectors of each of the question's vectors.
    pub(crate) async fn candidates(
        &self,
        collection: &str,
        question: &[Vec<f32>],
        search: SearchLimits,
    ) -> Result<BTreeMap<String, Hit>, Failure> {
        let mut hits = BTreeMap::new();
        for question in question.chunks(questions_at_once(search.candidates)) {
            self.add_candidates(collection, question, search, &mut hits)
                .await?;
        }
        Ok(hits)
    }

    async fn add_candidates(
        &self,
        collection: &str,
        question: &[Vec<f32>],
        search: SearchLimits,
        hits: &mut BTreeMap<String, Hit>,
    ) -> Result<(), Failure> {
        let mut parameters = HashMap::new();
        if self.index.index_type == IndexType::Hnsw {
            let ef = search.ef.max(search.candidates);
            parameters.insert("ef".to_owned(), ef.to_string());
        }
        let request = sdk::SearchRequest::builder()
            .collection_name(collection)
            .vector_field("vector")
            .vectors(sdk::SearchVectors::Float(question.to_vec()))
            .metric_type(metric(self.index.metric))
            .output_fields(["image_id", "page_number", "file_id"])
            .limit(i64::from(search.candidates))
            .extra_params(parameters)
            .consistency_level(ConsistencyLevel::Strong)
            .build()?;
        let answer = self.client.search(request).await?;
        for result in answer.results().get_results() {
            // The client's row API needs a field that older servers leave out.
            let column = |name: &str| result.get_output_field(name);
            match (column("image_id"), column("page_number"), column("file_id")) {
                (
                    Some(FieldData::VarChar {
                        values: image_ids, ..
                    }),
                    Some(FieldData::Int64 { values: pages, .. }),
                    Some(FieldData::VarChar {
                        values: file_ids, ..
                    }),
                ) => {
                    for ((image_id, page), file_id) in image_ids.iter().zip(pages).zip(file_ids) {
                        let hit = Hit {
                            file_id: file_id.clone(),
                            page: *page,
                        };
                        hits.insert(image_id.clone(), hit);
                    }
                }
                // A question without hits has no columns.
                _ if result.get_ids().is_empty() => {}
                _ => return Err(unexpected_answer()),
            }
        }
        Ok(())
    }

    /// Number of rows of a file, including the latest rows of other writers.
    pub(crate) async fn count_file(&self, collection: &str, file_id: &str) -> Result<u64, Failure> {
        self.count(collection, format!("file_id in [{}]", quote(file_id)))
            .await
    }

    /// Number of rows of a page range of a file. Pages are counted from 0.
    pub(crate) async fn count_range(
        &self,
        collection: &str,
        file_id: &str,
        pages: Range<u32>,
    ) -> Result<u64, Failure> {
        self.count(collection, range_filter(file_id, &pages)).await
    }

    pub(super) async fn count(&self, collection: &str, filter: String) -> Result<u64, Failure> {
        let request = sdk::QueryRequest::builder()
            .collection_name(collection)
            .filter(filter)
            .output_fields(["count(*)"])
            .consistency_level(ConsistencyLevel::Strong)
            .build()?;
        let answer = self.client.query(request).await?;
        let mut rows = answer.results().rows()?;
        let count = rows
            .next()
            .ok_or_else(unexpected_answer)?
            .get_i64("count(*)");
        u64::try_from(count?).map_err(|_| unexpected_answer())
    }

    /// All vectors of a page, in any order.
    pub(crate) async fn page_vectors(
        &self,
        collection: &str,
        image_id: &str,
    ) -> Result<Vec<Vec<f32>>, Failure> {
        let mut vectors = Vec::new();
        loop {
            let request = sdk::QueryRequest::builder()
                .collection_name(collection)
                .filter(format!("image_id in [{}]", quote(image_id)))
                .output_fields(["vector"])
                .limit(i64::try_from(ROWS_AT_ONCE).unwrap_or(i64::MAX))
                .offset(i64::try_from(vectors.len()).unwrap_or(i64::MAX))
                .consistency_level(ConsistencyLevel::Strong)
                .build()?;
            let answer = self.client.query(request).await?;
            let before = vectors.len();
            for row in answer.results().rows()? {
                let vector = row.get_float_vector("vector")?;
                vectors.push(vector.to_vec());
            }
            if vectors.len() - before < ROWS_AT_ONCE {
                return Ok(vectors);
            }
        }
    }
}

/// Number of the question's vectors whose hits fit into one answer.
fn questions_at_once(candidates: u32) -> usize {
    let candidates = usize::try_from(candidates).unwrap_or(usize::MAX).max(1);
    (HITS_AT_ONCE / candidates).max(1)
}

pub(super) fn unexpected_answer() -> Failure {
    let message = "the server's response lacks the requested columns";
    Failure::transient(Stage::Milvus, Reason::MilvusUnavailable, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hits_of_one_request_fit_into_an_answer() {
        // 16,384 is the most that Milvus returns for one vector.
        for candidates in [1, 100, 1_300, 16_384] {
            let questions = questions_at_once(candidates);
            assert!(questions >= 1);
            assert!(questions * usize::try_from(candidates).unwrap() <= HITS_AT_ONCE);
        }
        assert_eq!(questions_at_once(0), HITS_AT_ONCE);
    }
}
