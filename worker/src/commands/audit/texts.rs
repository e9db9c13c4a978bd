//! Texts of pages that `files` does not have: LAYRA deletes files without knowing that their texts are
//! kept.

use super::decide::{self, Leftover, Verdict};
use super::objects::is_changed;
use super::report::Kind;
use super::{Audit, finding};
use crate::runtime::failure::Failure;
use crate::stores::ledger::Entry;

impl Audit {
    pub(super) async fn texts(&mut self) -> Result<(), Failure> {
        let stray = self.stores.documents.stray_texts().await?;
        if stray.more > 0 {
            let what = format!("{} further texts without a page: audit again", stray.more);
            self.report.unchecked.push(what);
        }
        for (file_id, image_ids) in stray.by_file {
            self.texts_of(&file_id, &image_ids).await?;
        }
        Ok(())
    }

    async fn texts_of(&mut self, file_id: &str, image_ids: &[String]) -> Result<(), Failure> {
        let ledger = &self.stores.ledger;
        let entry = ledger.find(file_id).await?;
        let first_seen = if self.repair && entry.is_none() {
            Some(ledger.first_seen(&format!("texts {file_id}")).await?)
        } else {
            None
        };
        let found = Leftover {
            entry: entry
                .as_ref()
                .map(|entry| (entry.state, entry.updated_at.timestamp_millis())),
            is_own: entry.as_ref().is_some_and(|entry| ledger.owns(entry)),
            first_seen: first_seen.map(mongodb::bson::DateTime::timestamp_millis),
        };
        let mut verdict = decide::leftover(self.age, found);
        let base = entry.as_ref().map(|entry| entry.knowledge_db_id.as_str());
        if verdict == Verdict::Remove && self.is_away(base).await? {
            verdict = Verdict::Keep("its knowledge base is archived, and may be restored");
        }
        let count = image_ids.len();
        let note = format!("texts of {count} pages that `files` does not have");
        let finding = finding(Kind::TextWithoutPage, file_id, base, note);
        let Some(finding) = self.note(verdict, finding) else {
            return Ok(());
        };
        let removed = match &entry {
            Some(entry) => self.remove_texts_under_lease(entry, image_ids).await?,
            None => self.remove_texts(file_id, image_ids).await?,
        };
        if removed {
            self.removed(finding);
        }
        Ok(())
    }

    async fn is_away(&self, knowledge_base: Option<&str>) -> Result<bool, Failure> {
        let Some(id) = knowledge_base else {
            return Ok(false);
        };
        let archive = self.stores.archives.find(id).await?;
        Ok(archive.is_some_and(|archive| archive.is_away()))
    }

    /// Removes texts under the lease of their document, so that no worker writes them at the same
    /// time. `false`: the document is in work again, or has the pages.
    async fn remove_texts_under_lease(
        &self,
        entry: &Entry,
        image_ids: &[String],
    ) -> Result<bool, Failure> {
        let ledger = &self.stores.ledger;
        let lease = match ledger.lease(entry).await {
            Err(failure) if is_changed(&failure) => return Ok(false),
            lease => lease?,
        };
        let removal = Box::pin(self.remove_texts(&entry.file_id, image_ids));
        let removed = match ledger.under_lease(&lease, removal).await {
            Err(failure) if is_changed(&failure) => return Ok(false),
            removed => removed?,
        };
        ledger.end_lease(&lease).await?;
        Ok(removed)
    }

    async fn remove_texts(&self, file_id: &str, image_ids: &[String]) -> Result<bool, Failure> {
        let documents = &self.stores.documents;
        let stored = documents.stored_file(file_id).await?.unwrap_or_default();
        if stored.pages.iter().any(|(id, _)| image_ids.contains(id)) {
            return Ok(false);
        }
        documents.remove_page_texts(image_ids).await?;
        Ok(true)
    }
}
