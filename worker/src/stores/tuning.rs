//! The right to measure on a Milvus server, and the temporary collections of whoever holds it.
//!
//! One run at a time: measurements would disturb each other, and production twice. A collection is
//! noted before it is created, so that the next run finds and drops what a killed one has left.

use std::pin::pin;
use std::time::Duration;

use mongodb::bson::{DateTime, Document, doc};
use mongodb::{Collection, Database};

use super::mongo::ask;
use crate::runtime::failure::{Class, Failure, Reason, Stage};

/// How long the right lasts that is not renewed: a killed run keeps others waiting for this long.
pub(crate) const LEASE: Duration = Duration::from_secs(15);
const RENEWAL: Duration = Duration::from_secs(4);

/// The right to measure on one server.
#[derive(Clone, Debug)]
pub(crate) struct TuningLease {
    runs: Collection<Document>,
    /// The server's address, as the pipeline's configuration has it.
    server: String,
    holder: String,
}

impl TuningLease {
    /// Takes the right. `None`: another run holds it.
    pub(crate) async fn take(database: &Database, server: &str) -> Result<Option<Self>, Failure> {
        let lease = Self {
            runs: database.collection("ingestion_tuning"),
            server: server.to_owned(),
            holder: uuid::Uuid::new_v4().to_string(),
        };
        let fields = doc! { "holder": "", "until": DateTime::from_millis(0), "collections": [] };
        let enter = lease
            .runs
            .update_one(doc! { "_id": server }, doc! { "$setOnInsert": fields })
            .upsert(true);
        ask(enter).await?;
        let ended = doc! { "_id": server, "until": { "$lte": DateTime::now() } };
        let taken = lease.runs.update_one(ended, lease.renewed());
        Ok((ask(taken).await?.matched_count > 0).then_some(lease))
    }

    /// The temporary collections of runs that did not drop them.
    pub(crate) async fn collections(&self) -> Result<Vec<String>, Failure> {
        let found = ask(self.runs.find_one(doc! { "_id": &self.server })).await?;
        let found = found.unwrap_or_default();
        let names = found.get_array("collections").into_iter().flatten();
        Ok(names
            .filter_map(|name| name.as_str().map(str::to_owned))
            .collect())
    }

    /// Notes a collection that will be created.
    pub(crate) async fn note(&self, collection: &str) -> Result<(), Failure> {
        self.change(doc! { "$addToSet": { "collections": collection } })
            .await
    }

    /// Forgets a collection that does not exist any more.
    pub(crate) async fn forget(&self, collection: &str) -> Result<(), Failure> {
        self.change(doc! { "$pull": { "collections": collection } })
            .await
    }

    /// Runs `work` as long as no other run has taken the right.
    pub(crate) async fn hold<T, E: From<Failure>>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                () = tokio::time::sleep(RENEWAL) => {}
                result = &mut work => return result,
            }
            match self.change(self.renewed()).await {
                // The next renewal shows whether another run has begun meanwhile.
                Err(failure) if failure.class == Class::Transient => {
                    tracing::warn!(error = %failure, "right to measure not renewed");
                }
                renewed => renewed?,
            }
        }
    }

    /// Gives the right back.
    pub(crate) async fn end(&self) -> Result<(), Failure> {
        self.change(doc! { "$set": { "until": DateTime::from_millis(0) } })
            .await
    }

    fn renewed(&self) -> Document {
        let lease = i64::try_from(LEASE.as_millis()).unwrap_or(i64::MAX);
        let until = DateTime::from_millis(DateTime::now().timestamp_millis() + lease);
        doc! { "$set": { "holder": &self.holder, "until": until } }
    }

    async fn change(&self, update: Document) -> Result<(), Failure> {
        let own = doc! { "_id": &self.server, "holder": &self.holder };
        if ask(self.runs.update_one(own, update)).await?.matched_count > 0 {
            return Ok(());
        }
        let message = "another run has begun: this one did not renew its right in time";
        Err(Failure::fatal(Stage::Mongodb, Reason::Superseded, message))
    }
}
