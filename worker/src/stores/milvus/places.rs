//! Which pages the rows of a collection belong to, without their vectors, whatever their format.

use milvus::v2::prelude as sdk;
use sdk::FieldData;

use super::{Pages, Vectors};
use crate::runtime::failure::Failure;

/// Rows of ids in one answer: below gRPC's 4 MiB for two ids of up to 250 bytes.
const PLACES_AT_ONCE: usize = 8_000;

/// The page of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) pk: i64,
    pub(crate) image_id: String,
    pub(crate) file_id: String,
}

impl Vectors {
    /// The pages of the first rows whose keys are above `after`, in the order of the keys. Empty:
    /// there are no more.
    pub(crate) async fn places_after(
        &self,
        collection: &str,
        after: i64,
        pages: Pages,
    ) -> Result<Vec<Place>, Failure> {
        let mut limit = PLACES_AT_ONCE;
        loop {
            // Milvus answers with the rows of the smallest keys.
            let request = sdk::QueryRequest::builder()
                .collection_name(collection)
                .filter(format!("pk > {after}"))
                .output_fields(["pk", "image_id", "file_id"])
                .limit(i64::try_from(limit).unwrap_or(i64::MAX))
                .consistency_level(pages.consistency())
                .build()?;
            match self.client.query(request).await {
                // Ids can be long. 11 is OUT_OF_RANGE: the answer exceeds the limit.
                Err(sdk::Error::Grpc(status)) if status.code() as i32 == 11 && limit > 1 => {
                    limit = limit.div_ceil(4);
                }
                answer => return Ok(places(answer?.results().get_output_fields())),
            }
        }
    }
}

fn places(columns: &[FieldData]) -> Vec<Place> {
    let (mut pks, mut image_ids, mut file_ids) = (None, None, None);
    for column in columns {
        match column {
            FieldData::Int64 { name, values } if name == "pk" => pks = Some(values),
            FieldData::VarChar { name, values } if name == "image_id" => image_ids = Some(values),
            FieldData::VarChar { name, values } if name == "file_id" => file_ids = Some(values),
            _ => {}
        }
    }
    let (Some(pks), Some(image_ids), Some(file_ids)) = (pks, image_ids, file_ids) else {
        // No rows have no columns.
        return Vec::new();
    };
    let mut places: Vec<Place> = pks
        .iter()
        .zip(image_ids.iter().zip(file_ids))
        .map(|(pk, (image_id, file_id))| Place {
            pk: *pk,
            image_id: image_id.clone(),
            file_id: file_id.clone(),
        })
        .collect();
    places.sort_unstable_by_key(|place| place.pk);
    places
}
