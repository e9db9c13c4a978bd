//! Lists a whole bucket, for the commands that compare the stores with each other.

use futures::TryStreamExt;
use object_store::ObjectStore;
use object_store::path::Path;

use super::Objects;
use crate::runtime::failure::{Failure, Stage};

impl Objects {
    /// Calls `visit` with key and time (milliseconds since 1970) of every object below a prefix.
    /// The listing is read page by page.
    pub(crate) async fn each_object(
        &self,
        prefix: Option<&Path>,
        mut visit: impl FnMut(&str, i64),
    ) -> Result<(), Failure> {
        let mut listing = self.client.list(prefix);
        loop {
            match listing.try_next().await {
                Ok(Some(object)) => visit(
                    object.location.as_ref(),
                    object.last_modified.timestamp_millis(),
                ),
                Ok(None) => return Ok(()),
                Err(error) => return Err(self.failure(Stage::Objects, &error).await),
            }
        }
    }
}
