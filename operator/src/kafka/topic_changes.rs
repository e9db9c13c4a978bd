//! Creates and extends topics of one cluster. All pipelines share one admin client, and a semaphore
//! bounds their requests. Topics rarely change, so the client lives only while a change is waiting.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use rdkafka::{
    admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication, TopicResult},
    client::DefaultClientContext,
    error::{KafkaResult, RDKafkaErrorCode},
};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{Connection, KafkaError, TopicAction, cluster::description, connection::not_created};
use crate::leader::Fence;

/// For a request, including the controller's work.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Pipelines whose changes are sent at the same time. The timeout of a request starts only then: a
/// broker answers the requests of one connection one after the other.
const CONCURRENCY: usize = 4;
/// How long a pipeline waits for others. It is retried later, so that a cluster that stopped
/// answering does not block its reconcile for longer.
const QUEUE_TIMEOUT: Duration = Duration::from_mins(1);

/// Changes the topics of one cluster.
pub(super) struct TopicChanges {
    client: Mutex<Weak<SharedAdmin>>,
    permits: Semaphore,
}

impl Default for TopicChanges {
    fn default() -> Self {
        Self {
            client: Mutex::default(),
            permits: Semaphore::new(CONCURRENCY),
        }
    }
}

impl TopicChanges {
    /// Makes the changes of one pipeline; a result for each, in their order.
    pub(super) async fn make(
        &self,
        connection: &Connection,
        actions: &[TopicAction],
        fence: &Fence,
    ) -> Vec<Result<(), KafkaError>> {
        // Held while waiting for a permit, so that all pipelines that wait share it.
        let client = match self.client(connection) {
            Ok(client) => client,
            Err(error) => return vec![Err(error); actions.len()],
        };
        let permit = self.permit(QUEUE_TIMEOUT).await;
        // After the wait, in which this process may have lost its lease.
        let is_leader = fence
            .check()
            .map_err(|lost| KafkaError::Refused(lost.to_string()));
        match permit.and_then(|permit| is_leader.map(|()| permit)) {
            Ok(_permit) => client.make(actions).await,
            Err(error) => vec![Err(error); actions.len()],
        }
    }

    async fn permit(&self, timeout: Duration) -> Result<SemaphorePermit<'_>, KafkaError> {
        match tokio::time::timeout(timeout, self.permits.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(KafkaError::Unreachable(
                "changes to other topics take too long".to_owned(),
            )),
        }
    }

    fn client(&self, connection: &Connection) -> Result<Arc<SharedAdmin>, KafkaError> {
        let mut shared = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = shared.upgrade() {
            return Ok(client);
        }
        let client = Arc::new(SharedAdmin::new(connection)?);
        *shared = Arc::downgrade(&client);
        Ok(client)
    }
}

/// The admin client; `None` only while it is dropped.
struct SharedAdmin(Option<AdminClient<DefaultClientContext>>);

impl SharedAdmin {
    fn new(connection: &Connection) -> Result<Self, KafkaError> {
        let client = connection
            .client_config()
            .create()
            .map_err(|error| not_created(&error))?;
        Ok(Self(Some(client)))
    }

    async fn make(&self, actions: &[TopicAction]) -> Vec<Result<(), KafkaError>> {
        let Some(client) = &self.0 else {
            return Vec::new();
        };
        let options = AdminOptions::new()
            .request_timeout(Some(TIMEOUT))
            .operation_timeout(Some(TIMEOUT));
        let topics: Vec<NewTopic<'_>> = actions.iter().filter_map(new_topic).collect();
        let created = if topics.is_empty() {
            Ok(Vec::new())
        } else {
            client.create_topics(&topics, &options).await
        };
        let partitions: Vec<NewPartitions<'_>> =
            actions.iter().filter_map(new_partitions).collect();
        let extended = if partitions.is_empty() {
            Ok(Vec::new())
        } else {
            client.create_partitions(&partitions, &options).await
        };
        actions
            .iter()
            .map(|action| match action {
                TopicAction::Create { topic, .. } => result_of(topic, &created),
                TopicAction::AddPartitions { topic, .. } => result_of(topic, &extended),
            })
            .collect()
    }
}

impl Drop for SharedAdmin {
    /// Closing a client waits for its threads, which would block the async runtime.
    fn drop(&mut self) {
        let client = self.0.take();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(move || drop(client));
        }
    }
}

fn new_topic(action: &TopicAction) -> Option<NewTopic<'_>> {
    let TopicAction::Create {
        topic,
        partitions,
        replication_factor,
        config,
    } = action
    else {
        return None;
    };
    let replication = TopicReplication::Fixed(*replication_factor);
    let new = NewTopic::new(topic, *partitions, replication);
    Some(
        config
            .iter()
            .fold(new, |new, (key, value)| new.set(key, value)),
    )
}

fn new_partitions(action: &TopicAction) -> Option<NewPartitions<'_>> {
    let TopicAction::AddPartitions { topic, partitions } = action else {
        return None;
    };
    let count = usize::try_from(*partitions).unwrap_or_default();
    Some(NewPartitions::new(topic, count))
}

fn result_of(topic: &str, results: &KafkaResult<Vec<TopicResult>>) -> Result<(), KafkaError> {
    let results = match results {
        Ok(results) => results,
        Err(error) => return Err(KafkaError::Unreachable(error.to_string())),
    };
    let of_topic = results.iter().find(|result| match result {
        Ok(name) | Err((name, _)) => name == topic,
    });
    match of_topic {
        // Another client was faster: the next reading shows the topic.
        Some(Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(()),
        Some(Err((_, code))) => Err(KafkaError::Refused(description(*code))),
        None => Err(KafkaError::Unreachable("no response".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use layra_crds::KafkaSecurity;
    use rdkafka::error::KafkaError as ClientError;

    use super::*;

    fn connection() -> Connection {
        Connection {
            // Nothing listens on port 1.
            bootstrap_servers: "127.0.0.1:1".to_owned(),
            security: KafkaSecurity::plaintext(),
        }
    }

    #[test]
    fn each_change_has_the_result_of_its_own_topic() {
        let results = Ok(vec![
            Ok("created".to_owned()),
            Err(("there".to_owned(), RDKafkaErrorCode::TopicAlreadyExists)),
            Err(("refused".to_owned(), RDKafkaErrorCode::PolicyViolation)),
        ]);
        assert_eq!(result_of("created", &results), Ok(()));
        assert_eq!(result_of("there", &results), Ok(()));
        let refused = KafkaError::Refused("Broker: Policy violation".to_owned());
        assert_eq!(result_of("refused", &results), Err(refused));
        let silence = KafkaError::Unreachable("no response".to_owned());
        assert_eq!(result_of("other", &results), Err(silence));
        let lost = Err(ClientError::AdminOp(RDKafkaErrorCode::OperationTimedOut));
        assert!(matches!(
            result_of("created", &lost),
            Err(KafkaError::Unreachable(_))
        ));
    }

    #[tokio::test]
    async fn a_pipeline_does_not_wait_for_others_forever() {
        let changes = TopicChanges::default();
        let permits = u32::try_from(CONCURRENCY).unwrap();
        let others = changes.permits.acquire_many(permits).await;
        let moment = Duration::from_millis(10);
        assert!(matches!(
            changes.permit(moment).await,
            Err(KafkaError::Unreachable(_))
        ));
        drop(others);
        assert!(changes.permit(moment).await.is_ok());
    }

    #[tokio::test]
    async fn pain_11_waiting_pipelines_share_an_admin_client_that_is_closed_afterwards() {
        let changes = TopicChanges::default();
        let one = changes.client(&connection()).unwrap();
        let other = changes.client(&connection()).unwrap();
        assert!(Arc::ptr_eq(&one, &other));
        drop((one, other));
        let shared = changes.client.lock().unwrap();
        assert!(shared.upgrade().is_none());
    }
}
