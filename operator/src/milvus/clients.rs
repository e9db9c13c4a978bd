//! One client for each server and token, shared by all pipelines that use it: their checks share the
//! connection and the list of collections.

use std::{
    collections::HashMap,
    fs::File,
    io::Write as _,
    os::fd::AsRawFd as _,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use milvus::v2::prelude::{
    ClientV2, ConnectConfig, ListCollectionsRequest, RetryConfig, TelemetryConfig,
};
use rustix::fs::{MemfdFlags, memfd_create};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{MilvusError, from_client};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const RPC_TIMEOUT: Duration = Duration::from_secs(5);
/// Age of a list of collections, or of the failure to get one, from the start of its request.
const LISTING_AGE: Duration = Duration::from_secs(5);
/// Concurrent requests to a server.
pub(super) const CONCURRENCY: usize = 8;
/// The client of a server that no pipeline used for this long is closed.
const IDLE: Duration = Duration::from_mins(10);

/// The clients of all servers.
#[derive(Clone, Default)]
pub(crate) struct MilvusClients {
    servers: Arc<Mutex<HashMap<Access, LastUsed>>>,
}

/// A server with the time of its last use.
type LastUsed = (Instant, Arc<Server>);

#[derive(Clone, PartialEq, Eq, Hash)]
struct Access {
    uri: String,
    token: Option<String>,
    /// Certificates of private authorities, in PEM format.
    authorities: Option<String>,
}

/// One server with one token.
pub(super) struct Server {
    access: Access,
    /// Locked while the collections are listed, so that concurrent checks share one request.
    listing: tokio::sync::Mutex<Option<(Instant, Result<Listing, MilvusError>)>>,
    permits: Semaphore,
}

/// The collections of a server, and the client that listed them.
#[derive(Clone)]
pub(super) struct Listing {
    pub(super) client: ClientV2,
    pub(super) collections: Arc<[String]>,
}

impl MilvusClients {
    pub(super) fn server(
        &self,
        uri: &str,
        token: Option<&str>,
        authorities: Option<&str>,
    ) -> Arc<Server> {
        let access = Access {
            uri: uri.to_owned(),
            token: token.map(str::to_owned),
            authorities: authorities.map(str::to_owned),
        };
        let now = Instant::now();
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        servers.retain(|other, (used, _)| *other == access || now.duration_since(*used) < IDLE);
        let (used, server) = servers.entry(access.clone()).or_insert_with(|| {
            let server = Server {
                access,
                listing: tokio::sync::Mutex::default(),
                permits: Semaphore::new(CONCURRENCY),
            };
            (now, Arc::new(server))
        });
        *used = now;
        Arc::clone(server)
    }
}

impl Server {
    /// The collections, at most [`LISTING_AGE`] old.
    pub(super) async fn listing(&self) -> Result<Listing, MilvusError> {
        let mut last = self.listing.lock().await;
        let client = match last.as_ref() {
            Some((at, result)) if at.elapsed() < LISTING_AGE => return result.clone(),
            Some((_, Ok(listing))) => Some(listing.client.clone()),
            _ => None,
        };
        let requested = Instant::now();
        let result = self.list(client).await;
        *last = Some((requested, result.clone()));
        result
    }

    /// Lists the collections with this client, or with a new one.
    async fn list(&self, client: Option<ClientV2>) -> Result<Listing, MilvusError> {
        let client = match client {
            Some(client) => client,
            // Not a part of the reconciles that wait for the list.
            None => Box::pin(self.access.connect()).await?,
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
    pub(super) async fn permit(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed.
        self.permits.acquire().await.ok()
    }
}

impl Access {
    async fn connect(&self) -> Result<ClientV2, MilvusError> {
        // By default the client retries 75 times, for minutes. Here the next check is the retry.
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
        // The client reads the file before it connects.
        let file = match &self.authorities {
            Some(authorities) => Some(file_in_memory(authorities).map_err(|error| {
                MilvusError::Unreachable(format!("the certificates cannot be used: {error}"))
            })?),
            None => None,
        };
        if let Some(file) = &file {
            config = config.ca_certificate(format!("/proc/self/fd/{}", file.as_raw_fd()));
        }
        ClientV2::new(&config)
            .await
            .map_err(|error| from_client(&error))
    }
}

/// A file for a client that reads certificates only from files: the operator's file system is
/// read-only.
fn file_in_memory(text: &str) -> std::io::Result<File> {
    let mut file = File::from(memfd_create("authorities", MemfdFlags::CLOEXEC)?);
    file.write_all(text.as_bytes())?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn pipelines_with_the_same_server_and_token_share_a_client() {
        let clients = MilvusClients::default();
        let one = clients.server("http://milvus:19530", Some("a"), None);
        let same = clients.server("http://milvus:19530", Some("a"), None);
        assert!(Arc::ptr_eq(&one, &same));
        for (uri, token, authorities) in [
            ("http://milvus:19530", Some("b"), None),
            ("http://milvus:19530", None, None),
            ("http://other:19530", Some("a"), None),
            ("http://milvus:19530", Some("a"), Some("PEM")),
        ] {
            assert!(
                !Arc::ptr_eq(&one, &clients.server(uri, token, authorities)),
                "{uri} {token:?} {authorities:?}"
            );
        }
    }

    #[test]
    fn a_file_in_memory_can_be_read_by_its_path() {
        let file = file_in_memory("certificates").unwrap();
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        assert_eq!(std::fs::read_to_string(path).unwrap(), "certificates");
    }

    #[tokio::test]
    async fn concurrent_checks_share_a_failure_without_another_attempt() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}", listener.local_addr().unwrap());
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        // Accepts connections and closes them.
        tokio::spawn(async move {
            while listener.accept().await.is_ok() {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        let server = MilvusClients::default().server(&uri, None, None);
        assert!(server.listing().await.is_err());
        let attempts = connections.load(Ordering::Relaxed);
        assert!(attempts > 0);
        let listings = futures::future::join_all((0..100).map(|_| server.listing()));
        assert!(listings.await.iter().all(Result::is_err));
        assert_eq!(connections.load(Ordering::Relaxed), attempts);
    }
}
