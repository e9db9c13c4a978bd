//! Reads all of LAYRA's documents, for the commands that compare the stores with each other.

use futures::TryStreamExt;
use mongodb::bson::{Bson, DateTime, Document, doc};

use super::{Documents, StoredFile, ask, text};
use crate::runtime::failure::Failure;

impl Documents {
    /// The ids of all knowledge bases, also of those that are marked as deleted.
    pub(crate) async fn knowledge_base_ids(&self) -> Result<Vec<String>, Failure> {
        let found = self
            .knowledge_bases
            .find(doc! {})
            .projection(doc! { "knowledge_base_id": 1 });
        let mut found = ask(found).await?;
        let mut ids = Vec::new();
        while let Some(base) = ask(found.try_next()).await? {
            ids.push(text(&base, "knowledge_base_id"));
        }
        Ok(ids)
    }

    /// The files that a knowledge base lists, and when they were entered.
    pub(crate) async fn listed_files(
        &self,
        knowledge_base: &str,
    ) -> Result<Vec<(String, Option<DateTime>)>, Failure> {
        let filter = doc! { "knowledge_base_id": knowledge_base };
        let found = self
            .knowledge_bases
            .find_one(filter)
            .projection(doc! { "files.file_id": 1, "files.created_at": 1 });
        let Some(base) = ask(found).await? else {
            return Ok(Vec::new());
        };
        let files = base.get_array("files").into_iter().flatten();
        Ok(files
            .filter_map(Bson::as_document)
            .map(|file| {
                let entered = file.get_datetime("created_at").ok();
                (text(file, "file_id"), entered.copied())
            })
            .collect())
    }

    /// Takes a file off the list of a knowledge base.
    pub(crate) async fn unlist_file(
        &self,
        knowledge_base: &str,
        file_id: &str,
    ) -> Result<(), Failure> {
        let filter = doc! { "knowledge_base_id": knowledge_base };
        let update = doc! { "$pull": { "files": { "file_id": file_id } } };
        ask(self.knowledge_bases.update_one(filter, update)).await?;
        Ok(())
    }

    /// Calls `visit` with every file, one after the other.
    pub(crate) async fn each_file(
        &self,
        mut visit: impl FnMut(String, StoredFile),
    ) -> Result<(), Failure> {
        let found = self.files.find(doc! {}).projection(doc! {
            "file_id": 1, "knowledge_db_id": 1, "minio_filename": 1,
            "images.images_id": 1, "images.minio_filename": 1,
        });
        let mut found = ask(found).await?;
        while let Some(file) = ask(found.try_next()).await? {
            let file: Document = file;
            visit(text(&file, "file_id"), StoredFile::from(&file));
        }
        Ok(())
    }
}
