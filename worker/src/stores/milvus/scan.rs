//! Which files the rows of a collection belong to, read in pages.

use milvus::v2::prelude as sdk;
use sdk::{ConsistencyLevel, FieldData};

use super::Vectors;
use super::read::unexpected_answer;
use crate::runtime::failure::Failure;

/// Rows of ids in one answer: below gRPC's 4 MiB for ids of up to 500 bytes.
const IDS_AT_ONCE: i64 = 8_000;

impl Vectors {
    /// The keys and files of the first rows whose keys are above `after`, in the order of the keys.
    /// Empty: there are no more.
    pub(crate) async fn file_ids_after(
        &self,
        collection: &str,
        after: i64,
    ) -> Result<Vec<(i64, String)>, Failure> {
        // Milvus answers with the rows of the smallest keys.
        let request = sdk::QueryRequest::builder()
            .collection_name(collection)
            .filter(format!("pk > {after}"))
            .output_fields(["pk", "file_id"])
            .limit(IDS_AT_ONCE)
            .consistency_level(ConsistencyLevel::Strong)
            .build()?;
        let answer = self.client.query(request).await?;
        let (mut pks, mut files) = (None, None);
        for column in answer.results().get_output_fields() {
            match column {
                FieldData::Int64 { name, values } if name == "pk" => pks = Some(values),
                FieldData::VarChar { name, values } if name == "file_id" => files = Some(values),
                _ => {}
            }
        }
        match (pks, files) {
            (Some(pks), Some(files)) => {
                let mut rows: Vec<(i64, String)> =
                    pks.iter().copied().zip(files.iter().cloned()).collect();
                rows.sort_unstable();
                Ok(rows)
            }
            // An answer without rows may lack its columns.
            (pks, files) if pks.is_none_or(Vec::is_empty) && files.is_none_or(Vec::is_empty) => {
                Ok(Vec::new())
            }
            _ => Err(unexpected_answer()),
        }
    }
}
