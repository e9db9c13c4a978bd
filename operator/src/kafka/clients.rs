//! One reader for each cluster and set of credentials, shared by all pipelines that use it. Each has
//! its own thread, so an unreachable cluster does not delay the others.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{
    Answer, Connection, KafkaError, Question, Subscriber, TopicAction, reader::Reader,
    topic_changes::TopicChanges,
};
use crate::leader::Fence;

/// A reader that no pipeline used for this long is closed.
const IDLE: Duration = Duration::from_mins(10);

/// The clients of all clusters.
#[derive(Default)]
pub(crate) struct KafkaClients {
    clusters: Mutex<HashMap<[u8; 32], LastUsed>>,
    fence: Fence,
}

/// Clients with the time of their last use.
type LastUsed = (Instant, Arc<ClusterClients>);

/// The clients of one cluster.
struct ClusterClients {
    reader: Reader,
    topic_changes: TopicChanges,
}

impl KafkaClients {
    /// Topics are changed while the fence allows it.
    pub(crate) fn new(fence: Fence) -> Self {
        Self {
            fence,
            ..Self::default()
        }
    }

    /// The latest answer to a question. From now on it is refreshed in the background, and the
    /// subscriber is called when it changes. Waits for the first answer, a few seconds at most.
    pub(crate) async fn query(
        &self,
        connection: &Connection,
        question: &Question,
        subscriber: &Subscriber,
    ) -> Result<Answer, KafkaError> {
        let clients = self.clients(connection)?;
        clients.reader.query(question, subscriber).await
    }

    /// Asks no more for a pipeline that is gone.
    pub(crate) fn forget(&self, subscriber: &str) {
        let clusters = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, clients) in clusters.values() {
            clients.reader.unsubscribe(subscriber);
        }
    }

    /// Changes the topics of one pipeline; a result for each action, in their order.
    pub(crate) async fn change_topics(
        &self,
        connection: &Connection,
        actions: &[TopicAction],
    ) -> Vec<Result<(), KafkaError>> {
        let clients = match self.clients(connection) {
            Ok(clients) => clients,
            Err(error) => return vec![Err(error); actions.len()],
        };
        let results = clients
            .topic_changes
            .make(connection, actions, &self.fence)
            .await;
        for action in actions {
            // An answer from before the change is out of date.
            clients.reader.forget_topic(action.topic());
        }
        results
    }

    fn clients(&self, connection: &Connection) -> Result<Arc<ClusterClients>, KafkaError> {
        let key = connection.key();
        let now = Instant::now();
        let mut clusters = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        // The thread of a reader ends when the reader is dropped.
        clusters.retain(|other, (used, _)| *other == key || now.duration_since(*used) < IDLE);
        if let Some((used, clients)) = clusters.get_mut(&key) {
            *used = now;
            return Ok(Arc::clone(clients));
        }
        let clients = Arc::new(ClusterClients {
            reader: Reader::start(connection)?,
            topic_changes: TopicChanges::default(),
        });
        clusters.insert(key, (now, Arc::clone(&clients)));
        Ok(clients)
    }
}

#[cfg(test)]
mod tests {
    use layra_crds::KafkaSecurity;

    use super::*;

    fn connection(bootstrap_servers: &str) -> Connection {
        Connection {
            bootstrap_servers: bootstrap_servers.to_owned(),
            security: KafkaSecurity::plaintext(),
        }
    }

    #[test]
    fn pain_11_pipelines_of_one_cluster_share_a_reader() {
        let clients = KafkaClients::default();
        let one = clients.clients(&connection("127.0.0.1:1")).unwrap();
        let same = clients.clients(&connection("127.0.0.1:1")).unwrap();
        let other = clients.clients(&connection("127.0.0.1:2")).unwrap();
        assert!(Arc::ptr_eq(&one, &same));
        assert!(!Arc::ptr_eq(&one, &other));
    }

    #[tokio::test]
    async fn an_absent_cluster_is_unreachable_with_a_reason_and_does_not_delay_others() {
        let clients = KafkaClients::default();
        let question = Question {
            topic: "tasks".into(),
            ranges_topic: "tasks.ranges".into(),
            dead_letter_topic: "tasks.dlq".into(),
            consumer_group: "workers".into(),
        };
        let subscriber = Subscriber {
            name: "rag/contracts".into(),
            on_change: Arc::new(|| {}),
        };
        // Nothing listens on ports 1 and 2.
        let (absent, other) = (connection("127.0.0.1:1"), connection("127.0.0.1:2"));
        let query = |connection| clients.query(connection, &question, &subscriber);
        let (first, second) = tokio::join!(query(&absent), query(&other));
        for answer in [first, second] {
            let Err(KafkaError::Unreachable(message)) = answer else {
                panic!("{answer:?}")
            };
            assert!(message.contains("refused"), "{message}");
        }
        // The second query returns the known answer without waiting.
        let again = tokio::time::timeout(Duration::from_millis(100), query(&absent)).await;
        assert!(
            matches!(again, Ok(Err(KafkaError::Unreachable(_)))),
            "{again:?}"
        );
    }
}
