//! Removes the documents of the command from every store, and looks for what is left.

use std::collections::BTreeSet;

use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::sending::{folder, knowledge_base_of};
use crate::assembly::Common;
use crate::commands::delete;
use crate::document::task::Deletion;
use crate::runtime::failure::{Failure, Reason, Stage};
use crate::stores::Stores;

/// Objects that are looked for at the same time.
const AT_ONCE: usize = 16;
/// Things left that are listed.
const LISTED: usize = 20;

/// Removes what killed calls have left. Returns the number of their objects, and what is left still.
pub(super) async fn remove_remainders(
    common: &Common,
    stores: &Stores,
) -> Result<(u32, Vec<String>), Failure> {
    let mut left = Vec::new();
    let retry = common.retry();
    let folder = folder(&common.settings.config.source.kafka.topic);
    let list = |_| stores.objects.list(Stage::Objects, &folder);
    let found = retry.run(Stage::Objects, &common.stop, list).await?;
    let keys: Vec<String> = found
        .into_iter()
        .map(|object| object.location.to_string())
        .filter(|key| knowledge_base_of(key).is_some())
        .collect();
    let knowledge_bases: BTreeSet<&str> = keys
        .iter()
        .filter_map(|key| knowledge_base_of(key))
        .collect();
    for knowledge_base in knowledge_bases {
        let originals: Vec<String> = keys
            .iter()
            .filter(|key| knowledge_base_of(key) == Some(knowledge_base))
            .cloned()
            .collect();
        left.extend(Box::pin(remove(common, stores, knowledge_base, &originals)).await?);
    }
    Ok((u32::try_from(keys.len()).unwrap_or(u32::MAX), left))
}

/// Deletes a knowledge base with its documents, as a user does, and then the originals that no
/// worker has seen. Returns what is left.
pub(super) async fn remove(
    common: &Common,
    stores: &Stores,
    knowledge_base: &str,
    originals: &[String],
) -> Result<Vec<String>, Failure> {
    let (retry, stop) = (common.retry(), &common.stop);
    let Stores {
        documents, objects, ..
    } = stores;
    let list = |_| async {
        let ids = documents.files_of(knowledge_base).await?;
        documents.stored_files(ids).await
    };
    let files = retry.run(Stage::Mongodb, stop, list).await?;
    let images = files.into_iter().flat_map(|(_, file)| file.pages);
    let mut keys: Vec<String> = images.map(|(_, key)| key).collect();
    keys.extend_from_slice(originals);

    let deletion = Deletion::KnowledgeBase(knowledge_base.to_owned());
    match Box::pin(delete::run(common, &deletion)).await {
        // It was stopped before the first document.
        Err(failure) if failure.reason == Reason::KnowledgeBaseNotFound => {}
        deleted => deleted?,
    }
    // The originals of documents that no worker has begun. They go last: their names tell the next
    // call what to delete.
    let delete = |_| objects.delete_all(originals.to_vec());
    retry.run(Stage::Objects, stop, delete).await?;

    let mut left = Box::pin(left_in_databases(common, stores, knowledge_base)).await?;
    let exists: Vec<Option<String>> = stream::iter(keys)
        .map(|key| {
            let retry = &retry;
            async move {
                let exists = |_| objects.exists(&key);
                let exists = retry.run(Stage::Objects, stop, exists).await?;
                Ok::<_, Failure>(exists.then_some(key))
            }
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    let objects = exists.into_iter().flatten();
    left.extend(objects.map(|key| format!("object {key}")).take(LISTED));
    Ok(left)
}

async fn left_in_databases(
    common: &Common,
    stores: &Stores,
    knowledge_base: &str,
) -> Result<Vec<String>, Failure> {
    let look = |_| async {
        let mut left = Vec::new();
        let documents = &stores.documents;
        let files = documents.files_of(knowledge_base).await?;
        left.extend(files.iter().map(|id| format!("file {id}")).take(LISTED));
        if documents.has_knowledge_base(knowledge_base).await? {
            left.push(format!("knowledge base {knowledge_base}"));
        }
        let collection = stores.collection_of(knowledge_base);
        if stores.vectors.has_collection(&collection).await? {
            left.push(format!("collection {collection}"));
        }
        Ok(left)
    };
    let retry = common.retry();
    retry.run(Stage::Mongodb, &common.stop, look).await
}
