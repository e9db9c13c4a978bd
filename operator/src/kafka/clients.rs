//! One reader for each cluster and set of credentials, shared by all pipelines that use it. Each has
//! a thread of its own: a dead cluster holds up nobody else.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{
    Answer, Asker, Connection, KafkaError, Question, TopicAction, changes::Changes, reader::Reader,
};

/// A reader that no pipeline used for this long is closed.
const IDLE: Duration = Duration::from_mins(10);

/// All readers.
#[derive(Default)]
pub(crate) struct KafkaClients {
    readers: Mutex<HashMap<[u8; 32], Entry>>,
}

struct Entry {
    clients: Arc<Clients>,
    used: Instant,
}

/// What reads and changes one cluster.
struct Clients {
    reader: Reader,
    changes: Changes,
}

impl KafkaClients {
    /// The newest answer to a question, which is read again and again from now on; the asker
    /// is called whenever it changes. Waits for the first one, some seconds at most.
    pub(crate) async fn ask(
        &self,
        connection: &Connection,
        question: &Question,
        asker: &Asker,
    ) -> Result<Answer, KafkaError> {
        let clients = self.clients(connection)?;
        clients.reader.ask(question, asker).await
    }

    /// Changes a topic. Takes some seconds at most once its turn has come.
    pub(crate) async fn change(
        &self,
        connection: &Connection,
        action: &TopicAction,
    ) -> Result<(), KafkaError> {
        let clients = self.clients(connection)?;
        let result = clients.changes.make(connection, action).await;
        // What was read before the change says nothing any more.
        clients.reader.forget_topic(action.topic());
        result
    }

    fn clients(&self, connection: &Connection) -> Result<Arc<Clients>, KafkaError> {
        let key = connection.key();
        let now = Instant::now();
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        // A reader ends its thread when it is dropped.
        readers.retain(|other, entry| *other == key || now.duration_since(entry.used) < IDLE);
        if let Some(entry) = readers.get_mut(&key) {
            entry.used = now;
            return Ok(Arc::clone(&entry.clients));
        }
        let clients = Arc::new(Clients {
            reader: Reader::start(connection)?,
            changes: Changes::default(),
        });
        readers.insert(
            key,
            Entry {
                clients: Arc::clone(&clients),
                used: now,
            },
        );
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
    async fn a_cluster_that_is_not_there_is_unreachable_says_why_and_slows_nobody() {
        let clients = KafkaClients::default();
        let question = Question {
            topic: "tasks".into(),
            ranges_topic: "tasks.ranges".into(),
            dead_letter_topic: "tasks.dlq".into(),
            consumer_group: "workers".into(),
        };
        let asker = Asker {
            name: "rag/contracts".into(),
            on_change: Arc::new(|| {}),
        };
        // Nothing listens on ports 1 and 2.
        let (dead, other) = (connection("127.0.0.1:1"), connection("127.0.0.1:2"));
        let ask = |connection| clients.ask(connection, &question, &asker);
        let (first, second) = tokio::join!(ask(&dead), ask(&other));
        for answer in [first, second] {
            let Err(KafkaError::Unreachable(message)) = answer else {
                panic!("{answer:?}")
            };
            assert!(message.contains("refused"), "{message}");
        }
        // The second question is answered from what is known, without waiting.
        let again = tokio::time::timeout(Duration::from_millis(100), ask(&dead)).await;
        assert!(
            matches!(again, Ok(Err(KafkaError::Unreachable(_)))),
            "{again:?}"
        );
    }
}
