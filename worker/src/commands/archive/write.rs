//! Writes an archive. Every object is read back before the next one is written.

use bytes::Bytes;
use futures::TryStreamExt;
use mongodb::bson::{Bson, Document};
use parquet::errors::ParquetError;

use super::manifest::{self, Manifest, Part, sha256};
use super::{refused, rows};
use crate::runtime::failure::Failure;
use crate::stores::milvus::{Choice, Pages, Row, Vectors};
use crate::stores::mongo::{Documents, ask};
use crate::stores::objects::Objects;

/// Bytes of vectors, or of documents, in one object.
const PART_BYTES: usize = 12 << 20;
/// The object that completes an archive.
pub(super) const MANIFEST: &str = "manifest.json";
/// Milvus' keys are positive.
const BEFORE_ALL: i64 = -1;

pub(super) struct Writer<'a> {
    objects: &'a Objects,
    place: &'a str,
    storage_class: Option<&'a str>,
    manifest: Manifest,
}

impl<'a> Writer<'a> {
    pub(super) fn new(
        objects: &'a Objects,
        place: &'a str,
        storage_class: Option<&'a str>,
        knowledge_base: &str,
        collection: &str,
    ) -> Self {
        Self {
            objects,
            place,
            storage_class,
            manifest: Manifest::new(knowledge_base, collection, 0),
        }
    }

    /// Writes all rows of the collection.
    pub(super) async fn rows(&mut self, vectors: &Vectors) -> Result<(), Failure> {
        let collection = self.manifest.collection.clone();
        let description = vectors.describe(&collection).await?;
        let description = description
            .filter(|description| description.has_layras_schema)
            .ok_or_else(|| {
                refused(&format!(
                    "collection {collection} does not have LAYRA's fields, so it would not come \
                     back as it was"
                ))
            })?;
        // It may have been released.
        vectors.load(&collection).await?;
        self.manifest.dimensions = description.dimensions;
        self.manifest.model = vectors.model_of(description.id).await?;
        let expected = vectors.count_all(&collection).await?;
        let row_bytes = description.dimensions * size_of::<f32>();
        let mut waiting: Vec<Row> = Vec::new();
        let mut last = BEFORE_ALL;
        let pages = Pages::new(description.dimensions, description.dynamic);
        loop {
            let page = vectors
                .rows_after(&collection, Choice::All, last, pages)
                .await?;
            let Some(row) = page.last() else { break };
            last = row.pk;
            waiting.extend(page);
            if waiting.len() * row_bytes >= PART_BYTES {
                self.row_part(&waiting).await?;
                waiting.clear();
            }
        }
        if !waiting.is_empty() {
            self.row_part(&waiting).await?;
        }
        let found = vectors.count_all(&collection).await?;
        if self.manifest.rows != expected || found != expected {
            return Err(refused(&format!(
                "collection {collection} changed while it was read: {expected} rows at first, {} \
                 read, {found} now. Nothing was dropped",
                self.manifest.rows
            )));
        }
        Ok(())
    }

    async fn row_part(&mut self, part: &[Row]) -> Result<(), Failure> {
        let unusable =
            |error: ParquetError| refused(&format!("the rows cannot be written: {error}"));
        let name = format!("vectors/part-{:05}.parquet", self.manifest.vectors.len());
        let file = rows::encode(part).map_err(unusable)?;
        let (part_of, stored) = self
            .put(name, part.len(), file, "application/vnd.apache.parquet")
            .await?;
        let read = rows::decode(stored).map_err(unusable)?;
        if !are_equal(&read, part) {
            return Err(refused(
                "the rows that were written are not those of Milvus",
            ));
        }
        manifest::add(&mut self.manifest.files, &read);
        self.manifest.rows += part_of.count;
        self.manifest.vectors.push(part_of);
        Ok(())
    }

    /// Writes MongoDB's documents about the knowledge base: its own, and those of its files.
    pub(super) async fn documents(&mut self, documents: &Documents) -> Result<(), Failure> {
        let id = self.manifest.knowledge_base.clone();
        let mut lines = Vec::new();
        let mut count = 0;
        let mut files = documents.raw_files(&id).await?;
        while let Some(file) = ask(files.try_next()).await? {
            lines.extend(line(file));
            count += 1;
            if lines.len() >= PART_BYTES {
                self.document_part("files", std::mem::take(&mut lines), count)
                    .await?;
                count = 0;
            }
        }
        if count > 0 {
            self.document_part("files", lines, count).await?;
        }
        if let Some(base) = documents.raw_knowledge_base(&id).await? {
            self.manifest.has_knowledge_base = true;
            self.document_part("knowledge_base", line(base), 1).await?;
        }
        Ok(())
    }

    async fn document_part(
        &mut self,
        kind: &str,
        lines: Vec<u8>,
        count: usize,
    ) -> Result<(), Failure> {
        let name = format!(
            "documents/{kind}-{:05}.jsonl",
            self.manifest.documents.len()
        );
        let content_type = "application/jsonl";
        let (part, _) = self.put(name, count, lines.into(), content_type).await?;
        self.manifest.documents.push(part);
        Ok(())
    }

    /// Writes the manifest, which completes the archive, and returns its SHA-256.
    pub(super) async fn finish(mut self) -> Result<String, Failure> {
        self.manifest.archived_at = jiff::Timestamp::now().to_string();
        let bytes = serde_json::to_vec_pretty(&self.manifest)
            .map_err(|error| refused(&format!("the manifest cannot be written: {error}")))?;
        let sum = sha256(&bytes);
        self.put(MANIFEST.to_owned(), 1, bytes.into(), "application/json")
            .await?;
        Ok(sum)
    }

    /// Writes an object and reads it back.
    async fn put(
        &self,
        name: String,
        count: usize,
        bytes: Bytes,
        content_type: &'static str,
    ) -> Result<(Part, Bytes), Failure> {
        let key = format!("{}/{name}", self.place);
        let part = Part::new(name, count, &bytes);
        self.objects
            .put_in_class(&key, bytes, content_type, self.storage_class)
            .await?;
        let stored = self.objects.get(&key).await?;
        if part.is(&stored) {
            Ok((part, stored))
        } else {
            Err(refused(&format!(
                "object {key} is not what was written. Nothing was dropped"
            )))
        }
    }
}

/// Whether rows are equal to the bit.
fn are_equal(read: &[Row], written: &[Row]) -> bool {
    let bits = |row: &Row| -> Vec<u32> { row.vector.iter().map(|value| value.to_bits()).collect() };
    read.len() == written.len()
        && read.iter().zip(written).all(|(a, b)| {
            (a.pk, &a.image_id, a.page, &a.file_id) == (b.pk, &b.image_id, b.page, &b.file_id)
                && bits(a) == bits(b)
        })
}

/// A document as a line.
fn line(document: Document) -> Vec<u8> {
    let mut line = Bson::Document(document)
        .into_canonical_extjson()
        .to_string()
        .into_bytes();
    line.push(b'\n');
    line
}

/// The documents in the lines of an object. An error is a sentence.
pub(super) fn documents_in(lines: &[u8]) -> Result<Vec<Document>, String> {
    lines
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| {
            let value: serde_json::Value =
                serde_json::from_slice(line).map_err(|error| error.to_string())?;
            match Bson::try_from(value) {
                Ok(Bson::Document(document)) => Ok(document),
                Ok(_) => Err("a line is no document".to_owned()),
                Err(error) => Err(error.to_string()),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use mongodb::bson::{DateTime, doc, oid::ObjectId};

    use super::*;

    #[test]
    fn documents_come_back_with_their_types() {
        let documents = [
            doc! {
                "_id": ObjectId::new(), "file_id": "u_f", "created_at": DateTime::now(),
                "images": [{ "page_number": 1_i64, "images_id": "a\nb" }],
                "pages_failed": [7_i32], "is_delete": false, "score": 0.1, "nothing": Bson::Null,
            },
            doc! { "file_id": "u_g" },
        ];
        let mut lines = Vec::new();
        for document in &documents {
            lines.extend(line(document.clone()));
        }
        assert_eq!(lines.split(|byte| *byte == b'\n').count(), 3);
        assert_eq!(documents_in(&lines).unwrap(), documents);
        assert!(documents_in(b"7\n").is_err());
    }
}
