//! Rows as a rebuild copies and compares them.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use milvus::v2::prelude as sdk;
use sdk::{ConsistencyLevel, FieldData};

use super::{INSERT_BYTES, Vectors, quote};
use crate::runtime::failure::{Failure, Reason, Stage};

/// Bytes of rows per answer that are aimed at: below gRPC's limit of 4 MiB.
const ANSWER_BYTES: usize = 2 << 20;
/// How long a read is strong: three times the server's grace period.
const STRONG: Duration = Duration::from_secs(15);
/// Bytes of a row besides its vector: two ids of usual length, and three numbers.
const ROW_BYTES: usize = 256;

/// One vector of a page.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    pub(crate) pk: i64,
    pub(crate) vector: Vec<f32>,
    pub(crate) image_id: String,
    pub(crate) page: i64,
    pub(crate) file_id: String,
}

impl Row {
    /// Equal for rows that are equal but for their primary keys.
    pub(crate) fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.file_id.hash(&mut hasher);
        self.page.hash(&mut hasher);
        for value in &self.vector {
            value.to_bits().hash(&mut hasher);
        }
        hasher.finish()
    }
}

/// Which rows to read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Choice<'a> {
    All,
    /// Those of some pages.
    Images(&'a [String]),
    /// Those of a file.
    File(&'a str),
}

/// How to read a collection page by page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pages {
    rows: usize,
    dynamic: bool,
    began: Instant,
}

impl Pages {
    /// For vectors of a width; `dynamic`: the collection can have further fields.
    pub(crate) fn new(dimensions: usize, dynamic: bool) -> Self {
        let rows = ANSWER_BYTES / (dimensions * size_of::<f32>() + ROW_BYTES);
        Self {
            rows: rows.clamp(1, 16_384),
            dynamic,
            began: Instant::now(),
        }
    }

    /// For another read, which sees every row that was acknowledged before now.
    pub(crate) fn again(self) -> Self {
        Self {
            began: Instant::now(),
            ..self
        }
    }

    /// A strong read waits for the server's next time tick, so it takes 200 ms. A bounded one, which
    /// does not wait, sees all that is older than the server's grace period, 5 s: later pages need
    /// no more.
    pub(super) fn consistency(&self) -> ConsistencyLevel {
        if self.began.elapsed() < STRONG {
            ConsistencyLevel::Strong
        } else {
            ConsistencyLevel::Bounded
        }
    }
}

impl Vectors {
    /// The chosen rows after a primary key, in its order: as many as fit into an answer. Empty:
    /// there are no more.
    pub(crate) async fn rows_after(
        &self,
        collection: &str,
        choice: Choice<'_>,
        last: i64,
        pages: Pages,
    ) -> Result<Vec<Row>, Failure> {
        let filter = match choice {
            Choice::All => format!("pk > {last}"),
            Choice::Images(ids) => {
                let quoted: Vec<String> = ids.iter().map(|id| quote(id)).collect();
                format!("image_id in [{}] and pk > {last}", quoted.join(", "))
            }
            Choice::File(id) => format!("file_id in [{}] and pk > {last}", quote(id)),
        };
        self.rows(collection, &filter, last, pages).await
    }

    async fn rows(
        &self,
        collection: &str,
        filter: &str,
        last: i64,
        pages: Pages,
    ) -> Result<Vec<Row>, Failure> {
        let mut limit = pages.rows;
        loop {
            match self.query_rows(collection, filter, limit, pages).await {
                // Ids can be long. 11 is OUT_OF_RANGE: the answer exceeds the limit.
                Err(sdk::Error::Grpc(status)) if status.code() as i32 == 11 && limit > 1 => {
                    limit = limit.div_ceil(4);
                }
                answer => return in_order(rows(&answer?)?, last),
            }
        }
    }

    async fn query_rows(
        &self,
        collection: &str,
        filter: &str,
        limit: usize,
        pages: Pages,
    ) -> Result<Vec<FieldData>, sdk::Error> {
        let mut fields = vec!["pk", "vector", "image_id", "page_number", "file_id"];
        if pages.dynamic {
            fields.push("$meta");
        }
        let request = sdk::QueryRequest::builder()
            .collection_name(collection)
            .filter(filter)
            .output_fields(fields)
            .limit(i64::try_from(limit).unwrap_or(i64::MAX))
            .consistency_level(pages.consistency())
            .build()?;
        let answer = self.client.query(request).await?;
        Ok(answer.results().get_output_fields().to_vec())
    }

    /// Inserts copies of rows, which get primary keys of their own.
    pub(crate) async fn insert_rows(&self, collection: &str, rows: &[Row]) -> Result<(), Failure> {
        for rows in portions(rows) {
            let text = |name: &str, value: fn(&Row) -> &String| FieldData::VarChar {
                name: name.into(),
                values: rows.iter().map(|row| value(row).clone()).collect(),
            };
            let columns = vec![
                FieldData::FloatVector {
                    name: "vector".into(),
                    values: rows.iter().map(|row| row.vector.clone()).collect(),
                },
                text("image_id", |row| &row.image_id),
                FieldData::Int64 {
                    name: "page_number".into(),
                    values: rows.iter().map(|row| row.page).collect(),
                },
                text("file_id", |row| &row.file_id),
            ];
            let request = sdk::InsertRequest::builder()
                .collection_name(collection)
                .columns(columns)
                .build()?;
            self.client.insert(request).await?;
        }
        Ok(())
    }
}

/// Cuts rows so that each portion fits into one insert.
fn portions(rows: &[Row]) -> impl Iterator<Item = &[Row]> {
    let mut rest = rows;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fitting = rest.iter().take_while(|row| {
            bytes += row.vector.len() * size_of::<f32>() + row.image_id.len() + row.file_id.len();
            bytes <= INSERT_BYTES
        });
        let (portion, later) = rest.split_at(fitting.count().max(1).min(rest.len()));
        rest = later;
        (!portion.is_empty()).then_some(portion)
    })
}

/// Checks what paging by primary key depends on.
fn in_order(rows: Vec<Row>, last: i64) -> Result<Vec<Row>, Failure> {
    let mut before = last;
    for row in &rows {
        if row.pk <= before {
            let message = "the server's response is not in the order of the primary keys";
            return Err(Failure::fatal(
                Stage::Milvus,
                Reason::MilvusUnavailable,
                message,
            ));
        }
        before = row.pk;
    }
    Ok(rows)
}

fn rows(columns: &[FieldData]) -> Result<Vec<Row>, Failure> {
    let (mut pks, mut pages, mut vectors) = (None, None, None);
    let (mut image_ids, mut file_ids) = (None, None);
    for column in columns {
        match column {
            FieldData::Int64 { name, values } if name == "pk" => pks = Some(values),
            FieldData::Int64 { name, values } if name == "page_number" => pages = Some(values),
            FieldData::FloatVector { values, .. } => vectors = Some(values),
            FieldData::VarChar { name, values } if name == "image_id" => image_ids = Some(values),
            FieldData::VarChar { name, values } if name == "file_id" => file_ids = Some(values),
            FieldData::Json { values, .. } if values.iter().any(has_content) => {
                let message = "a row has fields that the schema does not name";
                let reason = Reason::RebuildFailed;
                return Err(Failure::permanent(Stage::Milvus, reason, message));
            }
            _ => {}
        }
    }
    let (Some(pks), Some(pages), Some(vectors), Some(image_ids), Some(file_ids)) =
        (pks, pages, vectors, image_ids, file_ids)
    else {
        // No rows have no columns.
        return Ok(Vec::new());
    };
    let ids = image_ids.iter().zip(file_ids);
    let numbers = pks.iter().zip(pages).zip(vectors);
    Ok(numbers
        .zip(ids)
        .map(|(((pk, page), vector), (image_id, file_id))| Row {
            pk: *pk,
            vector: vector.clone(),
            image_id: image_id.clone(),
            page: *page,
            file_id: file_id.clone(),
        })
        .collect())
}

fn has_content(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::Null => false,
        serde_json::Value::Object(fields) => !fields.is_empty(),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(pk: i64, id_length: usize) -> Row {
        Row {
            pk,
            vector: vec![0.5; 8],
            image_id: "i".repeat(id_length),
            page: 3,
            file_id: "f".into(),
        }
    }

    #[test]
    fn copies_have_the_digest_of_their_original() {
        let original = row(1, 4);
        let copy = Row {
            pk: 9,
            ..original.clone()
        };
        assert_eq!(original.digest(), copy.digest());
        for other in [
            Row {
                page: 4,
                ..original.clone()
            },
            Row {
                file_id: "g".into(),
                ..original.clone()
            },
            Row {
                vector: vec![-0.0; 8],
                ..original.clone()
            },
        ] {
            assert_ne!(original.digest(), other.digest());
        }
    }

    #[test]
    fn an_insert_stays_below_its_limit_and_no_row_is_lost() {
        let rows: Vec<Row> = (0..200).map(|pk| row(pk, 65_000)).collect();
        let portions: Vec<_> = portions(&rows).collect();
        assert!(portions.len() > 1);
        for portion in &portions {
            let bytes: usize = portion.iter().map(|row| row.image_id.len() + 33).sum();
            assert!(bytes <= INSERT_BYTES);
        }
        assert_eq!(portions.concat(), rows);
        assert_eq!(super::portions(&[]).count(), 0);
    }

    #[test]
    fn rows_out_of_order_are_an_error() {
        assert!(in_order(vec![row(2, 1), row(3, 1)], 1).is_ok());
        assert!(in_order(vec![row(3, 1), row(2, 1)], 1).is_err());
        assert!(in_order(vec![row(1, 1)], 1).is_err());
    }
}
