//! Remembers the ranking of a question for a minute: in Redis, where it is configured, so that all
//! servers share it, else in memory. Only ids and scores are kept, under a digest of the question.
//! What is found here is checked against MongoDB as everything else is.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use moka::sync::Cache as Memory;
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use sha2::{Digest, Sha256};

use super::library::Scored;
use crate::runtime::failure::Failure;
use crate::runtime::settings::Secret;
use crate::stores::progress;

/// How long a ranking is remembered.
const TIME_TO_LIVE: Duration = Duration::from_mins(1);
/// Best pages that are remembered of a ranking.
pub(super) const PAGES: usize = 200;
/// Bytes of all rankings in memory.
const BYTES: u64 = 64 << 20;
/// Longest wait for Redis. A search takes no longer without it.
const TIMEOUT: Duration = Duration::from_millis(200);
/// How long Redis is left alone after it did not answer.
const LEFT_ALONE: Duration = Duration::from_secs(10);

/// Remembers rankings.
pub(super) enum Cache {
    Memory(Memory<String, Vec<u8>>),
    Redis(Box<Redis>),
}

/// Rankings in Redis.
pub(super) struct Redis {
    client: redis::Client,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    connection: Option<MultiplexedConnection>,
    failed: Option<Instant>,
}

impl Cache {
    pub(super) fn in_memory() -> Self {
        let weigh = |key: &String, value: &Vec<u8>| {
            u32::try_from(key.len() + value.len()).unwrap_or(u32::MAX)
        };
        let memory = Memory::builder()
            .max_capacity(BYTES)
            .weigher(weigh)
            .time_to_live(TIME_TO_LIVE);
        Self::Memory(memory.build())
    }

    /// `authorities` is a file with the certificates to trust instead of those of the image.
    pub(super) fn in_redis(uri: &Secret, authorities: Option<&Path>) -> Result<Self, Failure> {
        Ok(Self::Redis(Box::new(Redis {
            client: progress::client(uri, authorities)?,
            state: Mutex::default(),
        })))
    }

    /// The ranking that was remembered under a key.
    pub(super) async fn get(&self, key: &str) -> Option<Vec<Scored>> {
        let bytes = match self {
            Self::Memory(memory) => memory.get(key),
            Self::Redis(redis) => redis.get(key).await,
        };
        // What cannot be read is of another version.
        serde_json::from_slice(&bytes?).ok()
    }

    /// Remembers the best pages of a ranking.
    pub(super) async fn put(&self, key: String, pages: &[Scored]) {
        let best = &pages[..pages.len().min(PAGES)];
        let Ok(bytes) = serde_json::to_vec(best) else {
            return;
        };
        match self {
            Self::Memory(memory) => memory.insert(key, bytes),
            Self::Redis(redis) => redis.put(&key, bytes).await,
        }
    }
}

/// The key of what these parts determine. The question cannot be read from it.
pub(super) fn key<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        // With the length, different parts are never the same bytes.
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    format!("layra:search:{:x}", digest.finalize())
}

impl Redis {
    async fn get(&self, key: &str) -> Option<Vec<u8>> {
        let mut request = redis::cmd("GET");
        request.arg(key);
        self.ask::<Option<Vec<u8>>>(&request).await.flatten()
    }

    async fn put(&self, key: &str, bytes: Vec<u8>) {
        let mut request = redis::cmd("SET");
        request.arg(key).arg(bytes);
        request.arg("EX").arg(TIME_TO_LIVE.as_secs());
        self.ask::<()>(&request).await;
    }

    /// `None`: there is no answer in time.
    async fn ask<T: redis::FromRedisValue>(&self, request: &redis::Cmd) -> Option<T> {
        let connection = {
            let state = self.state();
            if state.failed.is_some_and(|then| then.elapsed() < LEFT_ALONE) {
                return None;
            }
            state.connection.clone()
        };
        let asked = async {
            let mut connection = match connection {
                Some(connection) => connection,
                None => self.connect().await?,
            };
            let answer = request.query_async::<T>(&mut connection).await?;
            Ok::<_, redis::RedisError>((answer, connection))
        };
        let problem = match tokio::time::timeout(TIMEOUT, asked).await {
            Ok(Ok((answer, connection))) => {
                let mut state = self.state();
                state.connection = Some(connection);
                state.failed = None;
                return Some(answer);
            }
            // The library's message may contain the connection string.
            Ok(Err(error)) => error.category().to_owned(),
            Err(_) => "no answer".to_owned(),
        };
        tracing::warn!(
            problem,
            "Redis is not used for a while: searches are not remembered"
        );
        let mut state = self.state();
        state.connection = None;
        state.failed = Some(Instant::now());
        None
    }

    async fn connect(&self) -> redis::RedisResult<MultiplexedConnection> {
        let settings = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(TIMEOUT))
            .set_response_timeout(Some(TIMEOUT));
        let client = &self.client;
        client
            .get_multiplexed_async_connection_with_config(&settings)
            .await
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(count: usize) -> Vec<Scored> {
        let page = |number: usize| Scored {
            image_id: format!("i{number}"),
            file_id: "f".into(),
            score: 0.5,
        };
        (0..count).map(page).collect()
    }

    #[tokio::test]
    async fn the_best_pages_are_remembered() {
        let cache = Cache::in_memory();
        assert_eq!(cache.get("k").await, None);
        cache.put("k".into(), &pages(PAGES + 7)).await;
        assert_eq!(cache.get("k").await, Some(pages(PAGES)));
    }

    #[tokio::test]
    async fn a_redis_that_does_not_answer_is_left_alone() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let uri = Secret::new(format!("redis://{address}/"));
        let cache = Cache::in_redis(&uri, None).unwrap();
        let began = Instant::now();
        for _ in 0..100 {
            assert_eq!(cache.get("k").await, None);
            cache.put("k".into(), &pages(1)).await;
        }
        // Not 200 times the longest wait.
        assert!(began.elapsed() < 20 * TIMEOUT, "{:?}", began.elapsed());
    }

    #[test]
    fn different_parts_have_different_keys() {
        let of = |parts: &[&str]| key(parts.iter().map(|part| part.as_bytes()));
        assert_ne!(of(&["ab", "c"]), of(&["a", "bc"]));
        assert_eq!(of(&["ab", "c"]), of(&["ab", "c"]));
        assert!(!of(&["question"]).contains("question"));
    }
}
