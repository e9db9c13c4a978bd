//! The count of the fault suite for documents that all can be processed.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;

use super::count::{self, Totals};
use super::documents::Sent;
use crate::cluster::eventually;
use crate::layra::{Upload, User, collection_of};
use crate::stores::Stores;
use crate::topics::lag;

/// Waits until every message of the topic is committed and no document is in progress.
pub(crate) async fn settled(
    stores: &Stores,
    user: &User,
    topic: &str,
    limit: Duration,
) -> Result<()> {
    let topics = [topic.to_owned(), format!("{topic}.ranges")];
    let group = format!("{topic}-workers");
    eventually("all documents to be done", limit, async || {
        let lag = lag(&stores.endpoints.kafka, &group, &topics)?;
        let unfinished = count::unfinished(stores, &user.knowledge_base).await?;
        Ok((lag == 0 && unfinished == 0).then_some(()))
    })
    .await
}

/// Compares the stores and topics with what was sent: documents, each with its number of pages.
pub(crate) async fn counted(
    stores: &Stores,
    user: &User,
    topic: &str,
    uploads: &[(Upload, u64)],
) -> Result<Totals> {
    let sent: Vec<Sent> = uploads
        .iter()
        .map(|(upload, pages)| Sent::with_pages(upload.clone(), *pages))
        .collect();
    let collection = collection_of(&user.knowledge_base);
    count::count(stores, user, topic, &collection, &sent, BTreeMap::new()).await
}
