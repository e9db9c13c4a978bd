//! Creates and extends topics of one cluster. All pipelines share one admin client, and a semaphore
//! bounds their requests. Topics rarely change, so the client lives only while a change is waiting.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use rdkafka::{
    admin::AdminClient,
    client::DefaultClientContext,
    error::{KafkaResult, RDKafkaErrorCode},
};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{
    Connection, KafkaError, TopicAction,
    admin::{self, TopicAnswers, TopicRefusal},
    cluster::description,
    connection::not_created,
};
use crate::leader::Fence;

/// For a request, including the controller's work.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Pipelines whose changes are sent at the same time. The timeout of a request starts only then: a
/// broker answers the requests of one connection one after the other.
const CONCURRENCY: usize = 4;
/// How long a pipeline waits for others. It is retried later, so that a cluster that stopped
/// answering does not block its reconcile for longer.
const QUEUE_TIMEOUT: Duration = Duration::from_mins(1);
/// The controller refuses a request for more partitions as a whole
/// (`ReplicationControlManager.MAX_PARTITIONS_PER_BATCH`).
const PARTITIONS_IN_ONE_REQUEST: i32 = 10_000;

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

    async fn make(self: Arc<Self>, actions: &[TopicAction]) -> Vec<Result<(), KafkaError>> {
        let mut results = Vec::with_capacity(actions.len());
        for batch in batches(actions) {
            let (client, actions) = (Arc::clone(&self), batch.to_vec());
            let sent = tokio::task::spawn_blocking(move || client.send(&actions)).await;
            results.extend(sent.unwrap_or_else(|error| {
                vec![Err(KafkaError::Unreachable(error.to_string())); batch.len()]
            }));
        }
        results
    }

    /// Sends one batch. Blocks.
    fn send(&self, actions: &[TopicAction]) -> Vec<Result<(), KafkaError>> {
        let Some(client) = &self.0 else {
            return Vec::new();
        };
        let created = admin::create_topics(client.inner(), actions, TIMEOUT);
        let extended = admin::create_partitions(client.inner(), actions, TIMEOUT);
        let result = |action: &TopicAction| match action {
            TopicAction::Create { topic, .. } => result_of(topic, &created),
            TopicAction::AddPartitions { topic, .. } => result_of(topic, &extended),
        };
        actions.iter().map(result).collect()
    }
}

/// The changes in requests of at most [`PARTITIONS_IN_ONE_REQUEST`], in their order.
fn batches(actions: &[TopicAction]) -> impl Iterator<Item = &[TopicAction]> {
    let mut rest = actions;
    std::iter::from_fn(move || {
        let mut partitions = 0_i32;
        let fitting = rest.iter().take_while(|action| {
            partitions = partitions.saturating_add(action.partitions());
            partitions <= PARTITIONS_IN_ONE_REQUEST
        });
        // One that is too large alone is sent for the sake of the brokers' own words.
        let length = fitting.count().max(1).min(rest.len());
        let (batch, others) = rest.split_at(length);
        rest = others;
        (!batch.is_empty()).then_some(batch)
    })
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

fn result_of(topic: &str, answers: &KafkaResult<TopicAnswers>) -> Result<(), KafkaError> {
    let answers = match answers {
        Ok(answers) => answers,
        Err(error) => return Err(KafkaError::Unreachable(error.to_string())),
    };
    match answers.get(topic) {
        Some(Ok(())) => Ok(()),
        // Another client was faster: the next reading shows the topic.
        Some(Err(refusal)) if refusal.code == RDKafkaErrorCode::TopicAlreadyExists => Ok(()),
        Some(Err(TopicRefusal { code, words })) => {
            let code = description(*code);
            // Without words of the brokers, librdkafka has those of the code.
            let words = words.trim_end_matches('.');
            Err(KafkaError::Refused(if words.is_empty() || *words == code {
                code
            } else {
                format!("{code}: {words}")
            }))
        }
        None => Err(KafkaError::Unreachable("no response".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use layra_crds::KafkaSecurity;
    use rdkafka::{error::KafkaError as ClientError, mocking::MockCluster};

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
        let refusal = |code, words: &str| {
            Err(TopicRefusal {
                code,
                words: words.to_owned(),
            })
        };
        let exists = refusal(RDKafkaErrorCode::TopicAlreadyExists, "");
        let collides = "Topic 'a.b' collides with existing topic: a_b";
        let answers = Ok(TopicAnswers::from([
            ("created".to_owned(), Ok(())),
            ("there".to_owned(), exists),
            (
                "refused".to_owned(),
                refusal(RDKafkaErrorCode::PolicyViolation, ""),
            ),
            (
                "a.b".to_owned(),
                refusal(RDKafkaErrorCode::InvalidTopic, collides),
            ),
        ]));
        assert_eq!(result_of("created", &answers), Ok(()));
        assert_eq!(result_of("there", &answers), Ok(()));
        let refused = |words: String| Err(KafkaError::Refused(words));
        let policy = "Broker: Policy violation".to_owned();
        assert_eq!(result_of("refused", &answers), refused(policy));
        let invalid = format!("Broker: Invalid topic: {collides}");
        assert_eq!(result_of("a.b", &answers), refused(invalid));
        let silence = KafkaError::Unreachable("no response".to_owned());
        assert_eq!(result_of("other", &answers), Err(silence));
        let lost = Err(ClientError::AdminOp(RDKafkaErrorCode::OperationTimedOut));
        assert!(matches!(
            result_of("created", &lost),
            Err(KafkaError::Unreachable(_))
        ));
    }

    #[test]
    fn a_cluster_that_does_not_answer_a_change_is_unreachable() {
        // librdkafka's own cluster knows neither request.
        let brokers = MockCluster::new(1).unwrap();
        let connection = Connection {
            bootstrap_servers: brokers.bootstrap_servers(),
            security: KafkaSecurity::plaintext(),
        };
        let actions = [
            TopicAction::Create {
                topic: "a".to_owned(),
                partitions: 1,
                replication_factor: 1,
                config: vec![("retention.ms".to_owned(), "-1".to_owned())],
            },
            TopicAction::AddPartitions {
                topic: "b".to_owned(),
                partitions: 2,
            },
        ];
        let admin = SharedAdmin::new(&connection).unwrap();
        let client = admin.0.as_ref().unwrap().inner();
        let timeout = Duration::from_millis(200);
        let created = admin::create_topics(client, &actions, timeout);
        let extended = admin::create_partitions(client, &actions, timeout);
        for result in [result_of("a", &created), result_of("b", &extended)] {
            assert!(
                matches!(result, Err(KafkaError::Unreachable(_))),
                "{result:?}"
            );
        }
        assert_eq!(
            admin::create_topics(client, &[], timeout),
            Ok(TopicAnswers::new()),
            "nothing is sent"
        );
    }

    #[test]
    fn a_request_has_no_more_partitions_than_the_controller_accepts() {
        let create = |topic: &str, partitions| TopicAction::Create {
            topic: topic.to_owned(),
            partitions,
            replication_factor: 1,
            config: Vec::new(),
        };
        let names = |actions: &[TopicAction]| {
            let batches = batches(actions);
            batches
                .map(|batch| batch.iter().map(|a| a.topic().to_owned()).collect())
                .collect::<Vec<Vec<String>>>()
        };
        let small = [create("a", 10), create("b", 10), create("c", 1)];
        assert_eq!(names(&small), [["a", "b", "c"]]);
        let large = [create("a", 10_000), create("b", 9_999), create("c", 1)];
        assert_eq!(names(&large), [vec!["a"], vec!["b", "c"]]);
        assert_eq!(names(&[create("a", 10_001)]), [["a"]]);
        assert_eq!(names(&[]), [[""; 0]; 0]);
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
