//! `pages_failed` in `files`: the pages of a file that were skipped. LAYRA does not read it.

use mongodb::bson::{Bson, DateTime, doc};

use super::{Documents, ask};
use crate::runtime::failure::{Failure, Stage};

/// The field of a file. Page numbers from 1, as in `images`; absent while no page failed.
pub(super) const FIELD: &str = "pages_failed";

impl Documents {
    /// Lists pages (numbers from 1, with their keys) as failed, and removes what an earlier attempt
    /// entered of them.
    pub(crate) async fn list_failed_pages(
        &self,
        file_id: &str,
        pages: &[(u32, String)],
    ) -> Result<(), Failure> {
        let (numbers, keys): (Vec<Bson>, Vec<&str>) = pages
            .iter()
            .map(|(number, key)| (Bson::from(i64::from(*number)), key.as_str()))
            .unzip();
        let update = doc! {
            "$pull": { "images": { "minio_filename": { "$in": keys } } },
            "$addToSet": { FIELD: { "$each": numbers } },
            "$set": { "last_modify_at": DateTime::now() },
        };
        let listed = ask(self.files.update_one(doc! { "file_id": file_id }, update)).await?;
        if listed.matched_count == 0 {
            let message = "the file was deleted while it was processed";
            return Err(Failure::deleted(Stage::Mongodb, message));
        }
        Ok(())
    }

    /// Takes pages (numbers from 1) off the list: they are processed again.
    pub(crate) async fn unlist_failed_pages(
        &self,
        file_id: &str,
        numbers: impl Iterator<Item = u32>,
    ) -> Result<(), Failure> {
        let numbers: Vec<Bson> = numbers.map(|number| i64::from(number).into()).collect();
        let filter = doc! { "file_id": file_id, FIELD: { "$exists": true } };
        let update = doc! { "$pullAll": { FIELD: numbers } };
        ask(self.files.update_one(filter, update)).await?;
        Ok(())
    }
}
