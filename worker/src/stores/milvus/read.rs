//! Reads from Milvus: candidates for a question, all vectors of a page, numbers of rows.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use layra_crds::IndexKind;
use milvus::v2::prelude as sdk;
use sdk::{ConsistencyLevel, FieldData};

use super::paging::{HitPage, hit_pages, next_rows};
use super::{Vectors, metric, one_of, quote, range_filter, vector_type};
use crate::runtime::failure::{Failure, Reason, Stage};

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
    /// Candidates that an HNSW index examines, raised to `candidates` if it is lower; clusters that
    /// an `IVF_FLAT` index examines, at most all.
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
        self.candidates_of_files(collection, &[], question, search)
            .await
    }

    /// The same, among the pages of these files only. Without any file: of all.
    pub(crate) async fn candidates_of_files(
        &self,
        collection: &str,
        files: &[String],
        question: &[Vec<f32>],
        search: SearchLimits,
    ) -> Result<BTreeMap<String, Hit>, Failure> {
        let mut hits = BTreeMap::new();
        let candidates = usize::try_from(search.candidates).unwrap_or(usize::MAX);
        let filter = match files {
            [] => String::new(),
            files => one_of("file_id", files),
        };
        for page in hit_pages(question.len(), candidates) {
            self.add_candidates(collection, &filter, question, search, &page, &mut hits)
                .await?;
        }
        Ok(hits)
    }

    async fn add_candidates(
        &self,
        collection: &str,
        filter: &str,
        question: &[Vec<f32>],
        search: SearchLimits,
        page: &HitPage,
        hits: &mut BTreeMap<String, Hit>,
    ) -> Result<(), Failure> {
        let parameter = match self.index.kind {
            IndexKind::Hnsw { .. } => Some(("ef", search.ef.max(search.candidates))),
            IndexKind::Flat => None,
            IndexKind::IvfFlat { nlist } => Some(("nprobe", search.ef.clamp(1, nlist))),
        };
        let parameters: HashMap<_, _> = parameter
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_string()))
            .collect();
        let request = sdk::SearchRequest::builder()
            .collection_name(collection)
            .vector_field("vector")
            .vectors(vector_type::search_vectors(
                self.type_of(collection).await?,
                &question[page.questions.clone()],
            ))
            .metric_type(metric(self.index.metric))
            .output_fields(["image_id", "page_number", "file_id"])
            .offset(rows(page.offset))
            .limit(rows(page.limit))
            .extra_params(parameters)
            .filter(filter)
            .consistency_level(self.reads)
            .build()?;
        let mut answer = self.client.search(request.clone()).await;
        if self.load_if_released(collection, &answer).await? {
            answer = self.client.search(request).await;
        }
        let answer = answer.map_err(Failure::from);
        let answer = self.unless_moving(collection, answer).await?;
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
        let mut answer = self.client.query(request.clone()).await;
        if self.load_if_released(collection, &answer).await? {
            answer = self.client.query(request).await;
        }
        let answer = answer.map_err(Failure::from);
        let answer = self.unless_moving(collection, answer).await?;
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
        let vector_type = self.type_of(collection).await?;
        let mut vectors = Vec::new();
        loop {
            let limit = next_rows(vectors.len(), self.dimensions * size_of::<f32>());
            if limit == 0 {
                return Ok(vectors);
            }
            let request = sdk::QueryRequest::builder()
                .collection_name(collection)
                .filter(format!("image_id in [{}]", quote(image_id)))
                .output_fields(["vector"])
                .limit(rows(limit))
                .offset(rows(vectors.len()))
                .consistency_level(self.reads)
                .build()?;
            let answer = self.client.query(request).await.map_err(Failure::from);
            let answer = self.unless_moving(collection, answer).await?;
            let before = vectors.len();
            for row in answer.results().rows()? {
                vectors.push(vector_type::read(vector_type, &row)?);
            }
            if vectors.len() - before < limit {
                return Ok(vectors);
            }
        }
    }
}

fn rows(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

pub(super) fn unexpected_answer() -> Failure {
    let message = "the server's response lacks the requested columns";
    Failure::transient(Stage::Milvus, Reason::MilvusUnavailable, message)
}
