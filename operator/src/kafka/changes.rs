//! Changes to one cluster's topics. They are rare, so their client lives only as long as there is
//! something to change; and a thousand pipelines that come at once share it.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use rdkafka::{
    admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    error::RDKafkaErrorCode,
};
use tokio::sync::Semaphore;

use super::{Connection, KafkaError, TopicAction, cluster::in_words};

/// For a change, the controller's work included.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Changes that are on their way to a cluster at the same time.
const AT_ONCE: usize = 8;

/// Changes the topics of one cluster.
pub(super) struct Changes {
    client: Mutex<Weak<Client>>,
    turns: Semaphore,
}

impl Default for Changes {
    fn default() -> Self {
        Self {
            client: Mutex::default(),
            turns: Semaphore::new(AT_ONCE),
        }
    }
}

impl Changes {
    /// Makes a change.
    pub(super) async fn make(
        &self,
        connection: &Connection,
        action: &TopicAction,
    ) -> Result<(), KafkaError> {
        // Before the turn, so that the client lives until the last one that waits is done.
        let client = self.client(connection)?;
        let _turn = self
            .turns
            .acquire()
            .await
            .map_err(|error| KafkaError::Unreachable(error.to_string()))?;
        client.make(action).await
    }

    fn client(&self, connection: &Connection) -> Result<Arc<Client>, KafkaError> {
        let mut shared = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = shared.upgrade() {
            return Ok(client);
        }
        let client = Arc::new(Client::new(connection)?);
        *shared = Arc::downgrade(&client);
        Ok(client)
    }
}

struct Client(Option<AdminClient<DefaultClientContext>>);

impl Client {
    fn new(connection: &Connection) -> Result<Self, KafkaError> {
        let client = connection
            .client_config()
            .create()
            .map_err(|error| KafkaError::Settings(error.to_string()))?;
        Ok(Self(Some(client)))
    }

    async fn make(&self, action: &TopicAction) -> Result<(), KafkaError> {
        let Some(client) = &self.0 else {
            return Err(KafkaError::Unreachable("the client is closed".to_owned()));
        };
        let options = AdminOptions::new()
            .request_timeout(Some(TIMEOUT))
            .operation_timeout(Some(TIMEOUT));
        let results = match action {
            TopicAction::Create {
                topic,
                partitions,
                replication_factor,
                config,
            } => {
                let replication = TopicReplication::Fixed(*replication_factor);
                let mut new = NewTopic::new(topic, *partitions, replication);
                for (key, value) in config {
                    new = new.set(key, value);
                }
                client.create_topics([&new], &options).await
            }
            TopicAction::AddPartitions { topic, partitions } => {
                let count = usize::try_from(*partitions).unwrap_or_default();
                client
                    .create_partitions([&NewPartitions::new(topic, count)], &options)
                    .await
            }
        };
        let results = results.map_err(|error| KafkaError::Unreachable(error.to_string()))?;
        match results.into_iter().next() {
            // Somebody else was faster: the next reading shows what there is.
            Some(Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(()),
            Some(Err((_, code))) => Err(KafkaError::Refused(in_words(code))),
            None => Err(KafkaError::Unreachable("no answer".to_owned())),
        }
    }
}

impl Drop for Client {
    /// Closing a client waits for its threads, which no task may.
    fn drop(&mut self) {
        let client = self.0.take();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(move || drop(client));
        }
    }
}
