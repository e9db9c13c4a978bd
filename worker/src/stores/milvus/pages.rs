//! Reads all vectors of many pages at once, for the exact comparison with a question.

use std::collections::HashMap;

use milvus::v2::prelude as sdk;
use sdk::ConsistencyLevel;

use super::models::Use;
use super::paging::rows_at_once;
use super::{Vectors, one_of, vector_type};
use crate::runtime::failure::Failure;

impl Vectors {
    /// The same server, for searches by users: they see writes that are a few seconds old, as
    /// LAYRA's own do, and do not wait for the server's clock.
    pub(crate) fn for_searches(self) -> Self {
        Self {
            reads: ConsistencyLevel::Bounded,
            ..self
        }
    }

    /// Whether a collection exists. Fails if its vectors are not like the model's, or of another one.
    pub(crate) async fn is_searchable(&self, collection: &str) -> Result<bool, Failure> {
        if !self.has_collection(collection).await? {
            return Ok(false);
        }
        let checked = self.check_vectors(collection, Use::Search).await;
        self.unless_moving(collection, checked).await?;
        Ok(true)
    }

    /// All vectors of some pages by `image_id`, concatenated, in any order. Pages without vectors
    /// are missing.
    pub(crate) async fn vectors_of_pages(
        &self,
        collection: &str,
        image_ids: &[String],
    ) -> Result<HashMap<String, Vec<f32>>, Failure> {
        let vector_type = self.type_of(collection).await?;
        let limit = rows_at_once(self.dimensions * size_of::<f32>());
        let pages = one_of("image_id", image_ids);
        let mut found: HashMap<String, Vec<f32>> = HashMap::new();
        let mut after = None;
        loop {
            // Milvus answers with the rows of the smallest keys.
            let filter = match after {
                None => pages.clone(),
                Some(key) => format!("{pages} and pk > {key}"),
            };
            let request = sdk::QueryRequest::builder()
                .collection_name(collection)
                .filter(filter)
                .output_fields(["pk", "image_id", "vector"])
                .limit(i64::try_from(limit).unwrap_or(i64::MAX))
                .consistency_level(self.reads)
                .build()?;
            let mut answer = self.client.query(request.clone()).await;
            if self.load_if_released(collection, &answer).await? {
                answer = self.client.query(request).await;
            }
            let answer = answer.map_err(Failure::from);
            let answer = self.unless_moving(collection, answer).await?;
            let mut count = 0;
            for row in answer.results().rows()? {
                let key = row.get_i64("pk")?;
                after = after.max(Some(key));
                let vector = vector_type::read(vector_type, &row)?;
                let page = found.entry(row.get_str("image_id")?.to_owned());
                page.or_default().extend(vector);
                count += 1;
            }
            if count < limit {
                return Ok(found);
            }
        }
    }
}
