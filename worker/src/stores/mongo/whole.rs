//! Reads all of LAYRA's documents, for the commands that compare the stores with each other.

use futures::TryStreamExt;
use mongodb::Cursor;
use mongodb::bson::{Bson, DateTime, Document, doc};

use super::{Documents, StoredFile, answer, ask, text};
use crate::runtime::failure::Failure;

/// What MongoDB says about the life of a knowledge base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BaseLife {
    /// It does not exist.
    Gone,
    /// It is marked as deleted, and no conversation uses it.
    MarkedDeleted,
    /// It can be searched.
    InUse,
}

/// LAYRA's collections whose turns name the knowledge base of their own uploads.
const WITH_TURNS: [&str; 2] = ["conversations", "chatflows"];

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

    /// Whether a knowledge base exists and is used. LAYRA marks the ones for uploads in a
    /// conversation as deleted from their beginning: they are used as long as a turn names them.
    pub(crate) async fn life_of(&self, knowledge_base: &str) -> Result<BaseLife, Failure> {
        let filter = doc! { "knowledge_base_id": knowledge_base };
        let found = self
            .knowledge_bases
            .find_one(filter)
            .projection(doc! { "is_delete": 1 });
        match ask(found).await? {
            None => return Ok(BaseLife::Gone),
            Some(base) if !base.get_bool("is_delete").unwrap_or_default() => {
                return Ok(BaseLife::InUse);
            }
            Some(_) => {}
        }
        for name in WITH_TURNS {
            let turns = self.database.collection::<Document>(name);
            let named = turns
                .find_one(doc! { "turns.temp_db": knowledge_base })
                .projection(doc! { "_id": 1 });
            if ask(named).await?.is_some() {
                return Ok(BaseLife::InUse);
            }
        }
        Ok(BaseLife::MarkedDeleted)
    }

    /// The document of a knowledge base.
    pub(crate) async fn raw_knowledge_base(&self, id: &str) -> Result<Option<Document>, Failure> {
        let filter = doc! { "knowledge_base_id": id };
        ask(self.knowledge_bases.find_one(filter)).await
    }

    /// The documents of a knowledge base's files.
    pub(crate) async fn raw_files(
        &self,
        knowledge_base: &str,
    ) -> Result<Cursor<Document>, Failure> {
        let filter = doc! { "knowledge_db_id": knowledge_base };
        ask(self.files.find(filter)).await
    }

    /// Enters the document of a file as it is, unless there is one.
    pub(crate) async fn enter_raw_file(&self, file: &Document) -> Result<(), Failure> {
        if self.stored_file(&text(file, "file_id")).await?.is_some() {
            return Ok(());
        }
        entered(answer(self.files.insert_one(file)).await?)
    }

    /// Enters the document of a knowledge base as it is, unless there is one.
    pub(crate) async fn enter_raw_knowledge_base(&self, base: &Document) -> Result<(), Failure> {
        if self
            .has_knowledge_base(&text(base, "knowledge_base_id"))
            .await?
        {
            return Ok(());
        }
        entered(answer(self.knowledge_bases.insert_one(base)).await?)
    }
}

/// A document that another command has entered meanwhile is there.
fn entered<T>(answer: mongodb::error::Result<T>) -> Result<(), Failure> {
    use mongodb::error::{ErrorKind, WriteFailure};
    match answer {
        Ok(_) => Ok(()),
        Err(error) => match &*error.kind {
            ErrorKind::Write(WriteFailure::WriteError(write)) if write.code == 11000 => Ok(()),
            _ => Err(error.into()),
        },
    }
}
