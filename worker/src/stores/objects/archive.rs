//! Objects of an archive: small enough for one request each, with a storage class.

use bytes::Bytes;
use object_store::{Attribute, ObjectStore, ObjectStoreExt, PutPayload};

use super::{Objects, parse_key, put_options};
use crate::runtime::failure::{Failure, Stage};

impl Objects {
    /// The name of the bucket.
    pub(crate) fn bucket(&self) -> &str {
        &self.bucket
    }

    /// Writes an object with a storage class. `None`: the bucket's default.
    pub(crate) async fn put_in_class(
        &self,
        key: &str,
        bytes: Bytes,
        content_type: &'static str,
        storage_class: Option<&str>,
    ) -> Result<(), Failure> {
        let path = parse_key(Stage::Objects, key)?;
        let mut options = put_options(content_type);
        if let Some(class) = storage_class {
            let class = class.to_owned().into();
            options.attributes.insert(Attribute::StorageClass, class);
        }
        let put = self
            .client
            .put_opts(&path, PutPayload::from_bytes(bytes), options);
        match put.await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.failure(Stage::Objects, &error).await),
        }
    }

    /// Reads an object.
    pub(crate) async fn get(&self, key: &str) -> Result<Bytes, Failure> {
        let path = parse_key(Stage::Objects, key)?;
        let read = async { self.client.get(&path).await?.bytes().await };
        match read.await {
            Ok(bytes) => Ok(bytes),
            Err(error) => Err(self.failure(Stage::Objects, &error).await),
        }
    }

    /// Deletes every object below a prefix.
    pub(crate) async fn delete_below(&self, prefix: &str) -> Result<(), Failure> {
        let prefix = parse_key(Stage::Objects, prefix)?;
        let mut keys = Vec::new();
        self.each_object(Some(&prefix), |key, _| keys.push(key.to_owned()))
            .await?;
        self.delete_all(keys).await
    }
}
