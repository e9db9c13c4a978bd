//! All rows of a collection in Milvus, in the order of their primary keys, some at a time. The
//! client's own iterator was seen to miss rows of growing segments.

use anyhow::Result;
use milvus::v2::prelude::{ConsistencyLevel, QueryRequest, QueryResponse};

use crate::stores::Stores;

/// Rows that are read at once. With more, an answer could exceed Milvus' 64 MB.
const AT_ONCE: i64 = 500;

/// Reads the rows of a collection.
pub struct Rows<'a> {
    stores: &'a Stores,
    collection: &'a str,
    /// A condition in front of the one for the primary key.
    filter: String,
    fields: Vec<&'static str>,
    last: i64,
}

impl<'a> Rows<'a> {
    /// With `pk` and these fields.
    #[must_use]
    pub fn of(stores: &'a Stores, collection: &'a str, fields: &[&'static str]) -> Self {
        Self {
            stores,
            collection,
            filter: String::new(),
            fields: [&["pk"], fields].concat(),
            last: 0,
        }
    }

    /// Only the rows of this file.
    #[must_use]
    pub fn of_file(mut self, file_id: &str) -> Self {
        self.filter = format!("file_id == \"{file_id}\" and ");
        self
    }

    /// The next rows; none after the last.
    pub async fn next(&mut self) -> Result<Option<QueryResponse>> {
        let query = QueryRequest::builder()
            .collection_name(self.collection)
            .filter(format!("{}pk > {}", self.filter, self.last))
            .output_fields(self.fields.iter().copied())
            .limit(AT_ONCE)
            .consistency_level(ConsistencyLevel::Strong)
            .build()?;
        let response = self.stores.milvus.query(query).await?;
        let before = self.last;
        for row in response.results().rows()? {
            self.last = self.last.max(row.get_i64("pk")?);
        }
        Ok((self.last > before).then_some(response))
    }
}
