//! Reads all stores and reports what a knowledge base contains and which invariants are broken.
//!
//! The rules are LAYRA's invariants: every page exists once in Milvus, MongoDB and S3, and the
//! three agree. Pages that MongoDB lists as failed exist nowhere. Nothing here relies on what the worker reports.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use futures::TryStreamExt;
use milvus::v2::prelude::HasCollectionRequest;
use mongodb::bson::{Bson, Document, doc};
use object_store::ObjectStoreExt;
use object_store::path::Path;

use crate::rows::Rows;
use crate::stores::Stores;

/// Contents of a knowledge base.
#[derive(Debug, Default)]
pub struct Audit {
    /// Stored pages by `file_id`.
    pub pages: BTreeMap<String, u64>,
    /// Vectors in Milvus.
    pub vectors: u64,
    /// The same by `file_id`.
    pub rows: BTreeMap<String, u64>,
    /// Every broken invariant, in words.
    pub violations: Vec<String>,
}

/// The rows of one page in Milvus.
#[derive(Default)]
struct PageRows {
    file_id: String,
    page_number: i64,
    rows: u64,
}

impl Audit {
    /// Number of pages of all documents.
    #[must_use]
    pub fn total_pages(&self) -> u64 {
        self.pages.values().sum()
    }

    /// Audits `knowledge_base`, whose vectors are in `collection`.
    pub async fn of(stores: &Stores, knowledge_base: &str, collection: &str) -> Result<Self> {
        let mut audit = Self::default();
        let rows = audit.milvus_pages(stores, collection).await?;
        let files: Vec<Document> = stores
            .mongodb
            .collection::<Document>("files")
            .find(doc! {"knowledge_db_id": knowledge_base})
            .await?
            .try_collect()
            .await?;
        let base = stores
            .mongodb
            .collection::<Document>("knowledge_bases")
            .find_one(doc! {"knowledge_base_id": knowledge_base})
            .await?
            .context("the knowledge base")?;

        audit.check_knowledge_base(&files, &base);
        let mut known_images = BTreeSet::new();
        for file in &files {
            audit
                .check_file(stores, file, &rows, &mut known_images)
                .await?;
        }
        for (image, page) in &rows {
            if !known_images.contains(image) {
                audit.violations.push(format!(
                    "image {image} (file {}, page {}) is in Milvus but not in MongoDB",
                    page.file_id, page.page_number
                ));
            }
        }
        Ok(audit)
    }

    /// Rows by `image_id`.
    async fn milvus_pages(
        &mut self,
        stores: &Stores,
        collection: &str,
    ) -> Result<BTreeMap<String, PageRows>> {
        let exists = stores
            .milvus
            .has_collection(
                HasCollectionRequest::builder()
                    .collection_name(collection)
                    .build()?,
            )
            .await?;
        if !exists.exists() {
            return Ok(BTreeMap::new());
        }
        let mut pages: BTreeMap<String, PageRows> = BTreeMap::new();
        let fields = ["image_id", "file_id", "page_number", "vector"];
        let mut rows = Rows::of(stores, collection, &fields);
        while let Some(batch) = rows.next().await? {
            for row in batch.results().rows()? {
                let image = row.get_str("image_id")?;
                let page = pages.entry(image.to_owned()).or_default();
                if page.rows > 0 && page.page_number != row.get_i64("page_number")? {
                    self.violations
                        .push(format!("image {image} has two page numbers in Milvus"));
                }
                row.get_str("file_id")?.clone_into(&mut page.file_id);
                page.page_number = row.get_i64("page_number")?;
                page.rows += 1;
                self.vectors += 1;
                *self.rows.entry(page.file_id.clone()).or_default() += 1;
                let norm: f32 = row.get_float_vector("vector")?.iter().map(|x| x * x).sum();
                if (norm.sqrt() - 1.0).abs() > 1e-2 {
                    self.violations
                        .push(format!("image {image}: a vector of length {norm}"));
                }
            }
        }
        Ok(pages)
    }

    fn check_knowledge_base(&mut self, files: &[Document], base: &Document) {
        let listed: Vec<&str> = base
            .get_array("files")
            .into_iter()
            .flatten()
            .filter_map(|file| file.as_document()?.get_str("file_id").ok())
            .collect();
        let stored: Vec<&str> = files
            .iter()
            .filter_map(|file| file.get_str("file_id").ok())
            .collect();
        let (listed_once, stored_once): (BTreeSet<_>, BTreeSet<_>) = (
            listed.iter().copied().collect(),
            stored.iter().copied().collect(),
        );
        if listed.len() != listed_once.len() || stored.len() != stored_once.len() {
            self.violations.push(format!(
                "a file is listed twice: the knowledge base lists {listed:?}, files contains {stored:?}"
            ));
        }
        if listed_once != stored_once {
            self.violations.push(format!(
                "the knowledge base and files differ in {:?}",
                listed_once
                    .symmetric_difference(&stored_once)
                    .collect::<Vec<_>>()
            ));
        }
    }

    async fn check_file(
        &mut self,
        stores: &Stores,
        file: &Document,
        rows: &BTreeMap<String, PageRows>,
        known_images: &mut BTreeSet<String>,
    ) -> Result<()> {
        let file_id = file.get_str("file_id").context("file_id")?.to_owned();
        let mut page_numbers = BTreeSet::new();
        for image in file.get_array("images").context("images")? {
            let image = image.as_document().context("an image entry")?;
            let id = image.get_str("images_id").context("images_id")?.to_owned();
            let number = match image.get("page_number") {
                Some(Bson::Int32(n)) => i64::from(*n),
                Some(Bson::Int64(n)) => *n,
                other => {
                    self.violations
                        .push(format!("{file_id}: page_number is {other:?}"));
                    continue;
                }
            };
            if !page_numbers.insert(number) {
                self.violations
                    .push(format!("{file_id}: page {number} twice in MongoDB"));
            }
            match rows.get(&id) {
                None => self.violations.push(format!(
                    "{file_id}: page {number} is in MongoDB and not in Milvus"
                )),
                Some(page) if page.file_id != file_id || page.page_number + 1 != number => {
                    self.violations.push(format!(
                        "{file_id}: page {number} is page_number {} of {} in Milvus",
                        page.page_number, page.file_id
                    ));
                }
                Some(page) if page.rows > 1000 => self.violations.push(format!(
                    "{file_id}: page {number} has {} vectors",
                    page.rows
                )),
                Some(_) => {}
            }
            let key = image.get_str("minio_filename").context("minio_filename")?;
            if stores.objects.head(&Path::parse(key)?).await.is_err() {
                self.violations
                    .push(format!("{file_id}: page {number}: no object {key}"));
            }
            known_images.insert(id);
        }
        let count = page_numbers.len() as u64;
        let failed = failed_pages(file);
        let all = (1..).take(page_numbers.len() + failed.len());
        let expected: BTreeSet<i64> = all.filter(|number| !failed.contains(number)).collect();
        if page_numbers != expected {
            self.violations.push(format!(
                "{file_id}: pages {page_numbers:?} and the failed ones {failed:?} are not all pages"
            ));
        }
        self.pages.insert(file_id, count);
        Ok(())
    }
}

/// `pages_failed` of a file: page numbers from 1.
fn failed_pages(file: &Document) -> BTreeSet<i64> {
    let numbers = file.get_array("pages_failed").into_iter().flatten();
    numbers.filter_map(Bson::as_i64).collect()
}
