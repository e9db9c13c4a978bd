//! One client for each cluster and set of credentials, shared by all pipelines that use it. Every
//! blocking call runs on a thread of its own: a dead cluster holds up nobody else.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{Answer, Connection, KafkaError, Question, TopicAction, cluster::Cluster};

/// A client that no pipeline used for this long is closed.
const IDLE: Duration = Duration::from_mins(10);

/// All clients.
#[derive(Default)]
pub(crate) struct KafkaClients {
    clients: Mutex<HashMap<[u8; 32], Entry>>,
}

struct Entry {
    cluster: Arc<Cluster>,
    used: Instant,
}

impl KafkaClients {
    /// Reads topics and offsets. Takes at most some seconds.
    pub(crate) async fn ask(
        &self,
        connection: &Connection,
        question: Question,
    ) -> Result<Answer, KafkaError> {
        let cluster = self.cluster(connection)?;
        blocking(move || cluster.ask(&question)).await
    }

    /// Changes a topic. Takes at most some seconds.
    pub(crate) async fn change(
        &self,
        connection: &Connection,
        action: &TopicAction,
    ) -> Result<(), KafkaError> {
        Cluster::change(connection, action).await
    }

    fn cluster(&self, connection: &Connection) -> Result<Arc<Cluster>, KafkaError> {
        let key = connection.key();
        let now = Instant::now();
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let idle: Vec<_> = clients
            .iter()
            .filter(|(other, entry)| **other != key && now.duration_since(entry.used) > IDLE)
            .map(|(other, _)| *other)
            .collect();
        for other in idle {
            if let Some(entry) = clients.remove(&other) {
                // Closing a client waits for its threads.
                tokio::task::spawn_blocking(move || drop(entry));
            }
        }
        if let Some(entry) = clients.get_mut(&key) {
            entry.used = now;
            return Ok(Arc::clone(&entry.cluster));
        }
        let cluster = Arc::new(Cluster::new(connection)?);
        clients.insert(
            key,
            Entry {
                cluster: Arc::clone(&cluster),
                used: now,
            },
        );
        Ok(cluster)
    }
}

async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, KafkaError> + Send + 'static,
) -> Result<T, KafkaError> {
    tokio::task::spawn_blocking(call)
        .await
        .unwrap_or_else(|error| {
            Err(KafkaError::Unreachable(format!(
                "the client failed: {error}"
            )))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::Security;

    fn connection(bootstrap_servers: &str) -> Connection {
        Connection {
            bootstrap_servers: bootstrap_servers.to_owned(),
            security: Security::plaintext(),
        }
    }

    #[test]
    fn pipelines_of_one_cluster_share_a_client() {
        let clients = KafkaClients::default();
        let one = clients.cluster(&connection("127.0.0.1:1")).unwrap();
        let same = clients.cluster(&connection("127.0.0.1:1")).unwrap();
        let other = clients.cluster(&connection("127.0.0.1:2")).unwrap();
        assert!(Arc::ptr_eq(&one, &same));
        assert!(!Arc::ptr_eq(&one, &other));
    }
}
