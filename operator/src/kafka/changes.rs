//! Changes to one cluster's topics. Those that come while another is on its way go together in the
//! next request: a broker answers one request of a connection after the other, and each costs the
//! controller a commit. Changes are rare, so their client lives only as long as somebody waits.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use rdkafka::{
    admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication, TopicResult},
    client::DefaultClientContext,
    error::{KafkaResult, RDKafkaErrorCode},
};
use tokio::sync::oneshot;

use super::{Connection, KafkaError, TopicAction, cluster::in_words, connection::not_made};

/// For a request, the controller's work included.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Changes in one request.
const IN_ONE_REQUEST: usize = 100;

/// Changes the topics of one cluster.
#[derive(Default)]
pub(super) struct Changes {
    client: Mutex<Weak<Client>>,
    waiting: Mutex<Vec<Change>>,
    turn: tokio::sync::Mutex<()>,
}

struct Change {
    action: TopicAction,
    tell: oneshot::Sender<Result<(), KafkaError>>,
}

impl Changes {
    /// Makes a change.
    pub(super) async fn make(
        &self,
        connection: &Connection,
        action: &TopicAction,
    ) -> Result<(), KafkaError> {
        let client = self.client(connection)?;
        let (tell, mut told) = oneshot::channel();
        lock(&self.waiting).push(Change {
            action: action.clone(),
            tell,
        });
        loop {
            // Whoever has the turn makes the changes of all.
            let _turn = self.turn.lock().await;
            match told.try_recv() {
                Ok(result) => return result,
                Err(oneshot::error::TryRecvError::Empty) => {}
                Err(oneshot::error::TryRecvError::Closed) => {
                    return Err(KafkaError::Unreachable("interrupted".to_owned()));
                }
            }
            let together = {
                let mut waiting = lock(&self.waiting);
                let count = waiting.len().min(IN_ONE_REQUEST);
                waiting.drain(..count).collect::<Vec<_>>()
            };
            client.make(together).await;
        }
    }

    fn client(&self, connection: &Connection) -> Result<Arc<Client>, KafkaError> {
        let mut shared = lock(&self.client);
        if let Some(client) = shared.upgrade() {
            return Ok(client);
        }
        let client = Arc::new(Client::new(connection)?);
        *shared = Arc::downgrade(&client);
        Ok(client)
    }
}

/// `None` only while it is dropped.
struct Client(Option<AdminClient<DefaultClientContext>>);

impl Client {
    fn new(connection: &Connection) -> Result<Self, KafkaError> {
        let client = connection
            .client_config()
            .create()
            .map_err(|error| not_made(&error))?;
        Ok(Self(Some(client)))
    }

    /// Makes some changes and tells each how it went.
    async fn make(&self, changes: Vec<Change>) {
        let Some(client) = &self.0 else { return };
        let (created, extended): (Vec<_>, Vec<_>) = changes
            .into_iter()
            .partition(|change| matches!(change.action, TopicAction::Create { .. }));
        let options = AdminOptions::new()
            .request_timeout(Some(TIMEOUT))
            .operation_timeout(Some(TIMEOUT));
        if !created.is_empty() {
            let new: Vec<_> = created.iter().filter_map(new_topic).collect();
            let results = client.create_topics(&new, &options).await;
            tell(created, &results);
        }
        if !extended.is_empty() {
            let new: Vec<_> = extended.iter().filter_map(new_partitions).collect();
            let results = client.create_partitions(&new, &options).await;
            tell(extended, &results);
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

fn new_topic(change: &Change) -> Option<NewTopic<'_>> {
    let TopicAction::Create {
        topic,
        partitions,
        replication_factor,
        config,
    } = &change.action
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

fn new_partitions(change: &Change) -> Option<NewPartitions<'_>> {
    let TopicAction::AddPartitions { topic, partitions } = &change.action else {
        return None;
    };
    let count = usize::try_from(*partitions).unwrap_or_default();
    Some(NewPartitions::new(topic, count))
}

fn tell(changes: Vec<Change>, results: &KafkaResult<Vec<TopicResult>>) {
    for Change { action, tell } in changes {
        // Nobody listens any more if the reconcile was given up.
        drop(tell.send(result_of(action.topic(), results)));
    }
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
        // Somebody else was faster: the next reading shows what there is.
        Some(Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(()),
        Some(Err((_, code))) => Err(KafkaError::Refused(in_words(*code))),
        None => Err(KafkaError::Unreachable("no answer".to_owned())),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use rdkafka::error::KafkaError as ClientError;

    use super::*;

    #[test]
    fn each_change_hears_of_its_own_topic() {
        let results = Ok(vec![
            Ok("made".to_owned()),
            Err(("there".to_owned(), RDKafkaErrorCode::TopicAlreadyExists)),
            Err(("refused".to_owned(), RDKafkaErrorCode::PolicyViolation)),
        ]);
        assert_eq!(result_of("made", &results), Ok(()));
        assert_eq!(result_of("there", &results), Ok(()));
        let refused = KafkaError::Refused("Broker: Policy violation".to_owned());
        assert_eq!(result_of("refused", &results), Err(refused));
        let silence = KafkaError::Unreachable("no answer".to_owned());
        assert_eq!(result_of("other", &results), Err(silence));
        let lost = Err(ClientError::AdminOp(RDKafkaErrorCode::OperationTimedOut));
        assert!(matches!(
            result_of("made", &lost),
            Err(KafkaError::Unreachable(_))
        ));
    }
}
