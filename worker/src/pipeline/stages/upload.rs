//! The stage that uploads page images to the object store. It never waits for the model.

use bytes::Bytes;

use super::{PageImage, Stages};
use crate::runtime::failure::{Failure, Stage};
use crate::runtime::work;
use crate::stores::mongo::PageEntry;

impl Stages<'_> {
    /// Uploads images and returns the MongoDB entry of each page, in the same order.
    pub(super) async fn upload(&self, images: &[PageImage]) -> Result<Vec<PageEntry>, Failure> {
        let objects = &self.pipeline.stores.objects;
        if images.is_empty() {
            return Ok(Vec::new());
        }
        let files: Vec<(String, Bytes)> = images
            .iter()
            .map(|image| (image.key.clone(), image.bytes.clone()))
            .collect();
        let content_type = self.plan.content_type();
        let put = |attempts| {
            let put = objects.put_all(files.clone(), content_type);
            async move {
                self.check_claim_again(attempts).await?;
                put.await
            }
        };
        let uploaded = self.pipeline.server(Stage::Objects, self.cancel, put);
        work::timed(Stage::Objects, uploaded).await?;
        let entries = images.iter().map(|image| PageEntry {
            image_id: self.plan.image_id(image.number),
            url: objects.link(&image.key),
            key: image.key.clone(),
            number: image.number + 1,
        });
        Ok(entries.collect())
    }
}
