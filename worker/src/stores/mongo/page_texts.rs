//! The texts of pages, for the snippets of a search, in a collection of our own:
//! `ingestion_page_texts`. LAYRA does not know it. A text is shown only while `files` has its page.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use futures::TryStreamExt;
use mongodb::IndexModel;
use mongodb::bson::{Bson, Document, doc};

use super::{Documents, ask, by_code, text};
use crate::runtime::failure::Failure;

/// The name of the collection.
pub(super) const COLLECTION: &str = "ingestion_page_texts";
/// Bytes that are kept of a page's text at most: ten times those of a full page.
const LONGEST: usize = 64 << 10;
/// Texts in one request: less than MongoDB's limit of 48 MB.
const WRITTEN_AT_ONCE: usize = 500;
/// Files that are looked up in one request.
const AT_ONCE: usize = 100;
/// Texts without a page that are named at most.
const MOST_STRAY: usize = 100_000;

/// A page and its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PageText {
    pub(crate) image_id: String,
    text: String,
}

/// Texts whose page `files` does not have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StrayTexts {
    /// The `image_id`s by file.
    pub(crate) by_file: BTreeMap<String, Vec<String>>,
    /// How many these are.
    named: usize,
    /// Further texts that are not named.
    pub(crate) more: usize,
}

impl PageText {
    /// `None`: there is nothing to keep.
    pub(crate) fn new(image_id: String, text: &str) -> Option<Self> {
        let text = text.trim();
        let text = text[..text.floor_char_boundary(LONGEST)].to_owned();
        (!text.is_empty()).then_some(Self { image_id, text })
    }
}

impl Documents {
    /// Creates the index of the collection, unless it exists.
    pub(crate) async fn prepare_page_texts(&self) -> Result<(), Failure> {
        let index = IndexModel::builder().keys(doc! { "file_id": 1 }).build();
        ask(self.texts.create_index(index)).await?;
        Ok(())
    }

    /// Keeps the texts of pages of a file, in place of earlier ones.
    pub(crate) async fn keep_page_texts(
        &self,
        file_id: &str,
        texts: &[PageText],
    ) -> Result<(), Failure> {
        for texts in texts.chunks(WRITTEN_AT_ONCE) {
            let updates: Vec<Document> = texts
                .iter()
                .map(|PageText { image_id, text }| {
                    doc! {
                        "q": { "_id": image_id },
                        "u": { "$set": { "file_id": file_id, "text": text } },
                        "upsert": true,
                    }
                })
                .collect();
            // A command as text does not inherit the client's write concern.
            let command = doc! {
                "update": self.texts.name(), "updates": updates, "ordered": true,
                "writeConcern": { "w": "majority" },
            };
            let reply = ask(self.database.run_command(command)).await?;
            let mut errors = reply.get_array("writeErrors").into_iter().flatten();
            if let Some(error) = errors.find_map(Bson::as_document) {
                // Its message may quote the text.
                let message = "the text of a page was not written";
                return Err(by_code(error.get_i32("code").unwrap_or_default(), message));
            }
        }
        Ok(())
    }

    /// Those of some pages' texts that are kept, by their `image_id`.
    pub(crate) async fn page_texts(
        &self,
        image_ids: &[String],
    ) -> Result<HashMap<String, String>, Failure> {
        let found = self.texts.find(doc! { "_id": { "$in": image_ids } });
        let mut found = ask(found).await?;
        let mut texts = HashMap::new();
        while let Some(found) = ask(found.try_next()).await? {
            texts.insert(text(&found, "_id"), text(&found, "text"));
        }
        Ok(texts)
    }

    /// Removes the texts of some pages.
    pub(crate) async fn remove_page_texts(&self, image_ids: &[String]) -> Result<(), Failure> {
        let filter = doc! { "_id": { "$in": image_ids } };
        ask(self.texts.delete_many(filter)).await?;
        Ok(())
    }

    /// Removes the texts of all pages of a file.
    pub(crate) async fn remove_texts_of_file(&self, file_id: &str) -> Result<(), Failure> {
        let filter = doc! { "file_id": file_id };
        ask(self.texts.delete_many(filter)).await?;
        Ok(())
    }

    /// The texts whose page `files` does not have. Those of documents in work are among them: a text
    /// is kept before its page is entered.
    pub(crate) async fn stray_texts(&self) -> Result<StrayTexts, Failure> {
        let all = self
            .texts
            .find(doc! {})
            .projection(doc! { "file_id": 1 })
            .sort(doc! { "file_id": 1 });
        let mut all = ask(all).await?;
        let mut stray = StrayTexts::default();
        let mut files: BTreeMap<String, Vec<String>> = BTreeMap::new();
        while let Some(found) = ask(all.try_next()).await? {
            let file_id = text(&found, "file_id");
            // The texts of a file follow each other.
            if files.len() == AT_ONCE && !files.contains_key(&file_id) {
                self.add_stray(std::mem::take(&mut files), &mut stray)
                    .await?;
            }
            files.entry(file_id).or_default().push(text(&found, "_id"));
        }
        self.add_stray(files, &mut stray).await?;
        Ok(stray)
    }

    async fn add_stray(
        &self,
        mut files: BTreeMap<String, Vec<String>>,
        stray: &mut StrayTexts,
    ) -> Result<(), Failure> {
        for (file_id, file) in self.stored_files(files.keys().cloned().collect()).await? {
            let pages: BTreeSet<String> = file.pages.into_iter().map(|(id, _)| id).collect();
            if let Some(texts) = files.get_mut(&file_id) {
                texts.retain(|image_id| !pages.contains(image_id));
            }
        }
        files.retain(|_, texts| !texts.is_empty());
        for (file_id, texts) in files {
            if stray.named < MOST_STRAY {
                stray.named += texts.len();
                stray.by_file.insert(file_id, texts);
            } else {
                stray.more += texts.len();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_kept_up_to_a_size() {
        let kept = |text: &str| PageText::new("i".into(), text).map(|kept| kept.text);
        assert_eq!(kept(" \r\n"), None);
        assert_eq!(kept(" Bread \n").as_deref(), Some("Bread"));
        let long = kept(&format!("x{}", "é".repeat(LONGEST))).unwrap();
        assert_eq!(long.len(), LONGEST - 1);
    }
}
