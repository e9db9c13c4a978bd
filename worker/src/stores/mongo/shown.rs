//! What a search shows of files and their pages.

use std::collections::HashMap;

use futures::TryStreamExt;
use mongodb::bson::{Bson, Document, doc};

use super::{Documents, ask, text};
use crate::runtime::failure::Failure;

/// A file as a search shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ShownFile {
    /// The name of the uploaded file.
    pub(crate) name: String,
    /// The id of its knowledge base.
    pub(crate) knowledge_base: String,
    /// The key of the original.
    pub(crate) key: String,
    /// Its pages by `images_id`.
    pub(crate) pages: HashMap<String, ShownPage>,
}

/// A page as a search shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ShownPage {
    /// The page, from 1.
    pub(crate) number: i64,
    /// The key of its image.
    pub(crate) key: String,
}

/// A knowledge base as a search shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ShownBase {
    pub(crate) id: String,
    /// Empty: it has none.
    pub(crate) name: String,
}

/// Knowledge bases that are shown at most.
const BASES: i64 = 10_000;

impl Documents {
    /// The knowledge bases, by their names.
    pub(crate) async fn shown_bases(&self) -> Result<Vec<ShownBase>, Failure> {
        let found = self
            .knowledge_bases
            .find(doc! { "is_delete": { "$ne": true } })
            .projection(doc! { "_id": 0, "knowledge_base_id": 1, "knowledge_base_name": 1 })
            .limit(BASES);
        let mut found = ask(found).await?;
        let mut bases = Vec::new();
        while let Some(base) = ask(found.try_next()).await? {
            bases.push(ShownBase {
                id: text(&base, "knowledge_base_id"),
                name: text(&base, "knowledge_base_name"),
            });
        }
        bases.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        Ok(bases)
    }

    /// Those of some files that exist, by their ids.
    pub(crate) async fn shown_files(
        &self,
        file_ids: &[String],
    ) -> Result<HashMap<String, ShownFile>, Failure> {
        let found = self
            .files
            .find(doc! { "file_id": { "$in": file_ids } })
            .projection(doc! {
                "file_id": 1, "filename": 1, "knowledge_db_id": 1, "minio_filename": 1,
                "images.images_id": 1, "images.minio_filename": 1, "images.page_number": 1,
            });
        let mut found = ask(found).await?;
        let mut files = HashMap::new();
        while let Some(file) = ask(found.try_next()).await? {
            files.insert(text(&file, "file_id"), ShownFile::from(&file));
        }
        Ok(files)
    }
}

impl From<&Document> for ShownFile {
    fn from(file: &Document) -> Self {
        let images = file.get_array("images").into_iter().flatten();
        let pages = images.filter_map(Bson::as_document).map(|image| {
            let page = ShownPage {
                number: number(image.get("page_number")),
                key: text(image, "minio_filename"),
            };
            (text(image, "images_id"), page)
        });
        Self {
            name: text(file, "filename"),
            knowledge_base: text(file, "knowledge_db_id"),
            key: text(file, "minio_filename"),
            pages: pages.collect(),
        }
    }
}

/// Drivers write whole numbers in several types.
fn number(value: Option<&Bson>) -> i64 {
    match value {
        Some(Bson::Int32(number)) => i64::from(*number),
        Some(Bson::Int64(number)) => *number,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_found_by_their_image_ids() {
        let file = doc! {
            "file_id": "u_1", "filename": "a.pdf", "knowledge_db_id": "u_kb", "minio_filename": "o",
            "images": [
                { "images_id": "i1", "minio_filename": "p1", "page_number": 1_i32 },
                { "images_id": "i2", "minio_filename": "p2", "page_number": 2_i64 },
            ],
        };
        let file = ShownFile::from(&file);
        assert_eq!((&*file.name, &*file.knowledge_base), ("a.pdf", "u_kb"));
        assert_eq!((file.pages["i1"].number, file.pages["i2"].number), (1, 2));
        assert_eq!((&*file.key, &*file.pages["i2"].key), ("o", "p2"));
    }
}
