//! One client for each server and token, shared by all pipelines that use it: their checks share a
//! connection and a look at the list of collections.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use milvus::v2::prelude::{
    ClientV2, ConnectConfig, ListCollectionsRequest, RetryConfig, TelemetryConfig,
};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{MilvusError, from_client};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const RPC_TIMEOUT: Duration = Duration::from_secs(5);
/// How old a list of collections, or the failure to get one, may be.
const LISTING_AGE: Duration = Duration::from_secs(5);
/// Requests that are on their way to a server at the same time.
const AT_ONCE: usize = 4;
/// A server that no pipeline used for this long is left.
const IDLE: Duration = Duration::from_mins(10);

/// All servers.
#[derive(Default)]
pub(crate) struct MilvusClients {
    servers: Mutex<HashMap<Access, (Instant, Arc<Server>)>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Access {
    uri: String,
    token: Option<String>,
}

/// One server, as one token shows it.
pub(super) struct Server {
    access: Access,
    /// Whoever finds it too old looks again; the others wait for what that one sees.
    listing: tokio::sync::Mutex<Option<(Instant, Result<Listing, MilvusError>)>>,
    turns: Semaphore,
}

/// The collections of a server, and the client that listed them.
#[derive(Clone)]
pub(super) struct Listing {
    pub(super) client: ClientV2,
    pub(super) collections: Arc<[String]>,
}

impl MilvusClients {
    pub(super) fn server(&self, uri: &str, token: Option<&str>) -> Arc<Server> {
        let access = Access {
            uri: uri.to_owned(),
            token: token.map(str::to_owned),
        };
        let now = Instant::now();
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        servers.retain(|other, (used, _)| *other == access || now.duration_since(*used) < IDLE);
        let (used, server) = servers.entry(access.clone()).or_insert_with(|| {
            let server = Server {
                access,
                listing: tokio::sync::Mutex::default(),
                turns: Semaphore::new(AT_ONCE),
            };
            (now, Arc::new(server))
        });
        *used = now;
        Arc::clone(server)
    }
}

impl Server {
    /// The collections, as they were some seconds ago at the most.
    pub(super) async fn listing(&self) -> Result<Listing, MilvusError> {
        let mut known = self.listing.lock().await;
        let client = match known.as_ref() {
            Some((at, result)) if at.elapsed() < LISTING_AGE => return result.clone(),
            Some((_, Ok(listing))) => Some(listing.client.clone()),
            _ => None,
        };
        let result = self.list(client).await;
        *known = Some((Instant::now(), result.clone()));
        result
    }

    /// Lists with the client, or with a new one.
    async fn list(&self, client: Option<ClientV2>) -> Result<Listing, MilvusError> {
        let client = match client {
            Some(client) => client,
            None => self.access.connect().await?,
        };
        let request = ListCollectionsRequest::builder()
            .build()
            .map_err(|error| from_client(&error))?;
        let answer = client
            .list_collections(request)
            .await
            .map_err(|error| from_client(&error))?;
        Ok(Listing {
            collections: answer.collection_names().to_vec().into(),
            client,
        })
    }

    /// Waits until a request may be sent.
    pub(super) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed.
        self.turns.acquire().await.ok()
    }
}

impl Access {
    async fn connect(&self) -> Result<ClientV2, MilvusError> {
        // The client's own defaults retry 75 times, for minutes. The next check is the retry here.
        let retry = RetryConfig::new()
            .max_attempts(1)
            .max_retry_timeout(RPC_TIMEOUT);
        let mut config = ConnectConfig::new()
            .uri(&self.uri)
            .connect_timeout(CONNECT_TIMEOUT)
            .rpc_timeout(RPC_TIMEOUT)
            .retry(retry)
            .telemetry(TelemetryConfig::new().enabled(false));
        if let Some(token) = &self.token {
            config = config.token(token);
        }
        ClientV2::new(&config)
            .await
            .map_err(|error| from_client(&error))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn pipelines_share_a_client_if_server_and_token_are_the_same() {
        let clients = MilvusClients::default();
        let one = clients.server("http://milvus:19530", Some("a"));
        let same = clients.server("http://milvus:19530", Some("a"));
        assert!(Arc::ptr_eq(&one, &same));
        for (uri, token) in [
            ("http://milvus:19530", Some("b")),
            ("http://milvus:19530", None),
            ("http://other:19530", Some("a")),
        ] {
            assert!(
                !Arc::ptr_eq(&one, &clients.server(uri, token)),
                "{uri} {token:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_failure_is_told_to_all_that_ask_without_another_attempt() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}", listener.local_addr().unwrap());
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        // Hangs up on everybody.
        tokio::spawn(async move {
            while listener.accept().await.is_ok() {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        let server = MilvusClients::default().server(&uri, None);
        assert!(server.listing().await.is_err());
        let attempts = connections.load(Ordering::Relaxed);
        assert!(attempts > 0);
        let asking = futures::future::join_all((0..100).map(|_| server.listing()));
        assert!(asking.await.iter().all(Result::is_err));
        assert_eq!(connections.load(Ordering::Relaxed), attempts);
    }
}
