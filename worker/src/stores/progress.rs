//! LAYRA's progress display: the Redis hash `task:{task_id}` that its API creates.
//!
//! It is only a display: if Redis is unavailable for long, ingestion continues without it. An
//! expired hash is not recreated, its time to live is not changed, and no fields are added.

use std::time::Duration;

use redis::Script;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};

use crate::document::task::Task;
use crate::runtime::failure::{Failure, Reason, Stage};
use crate::runtime::settings::Secret;

/// Longest time for one update.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Marks a task as processing. A failed task stays failed, and a file that was counted already
/// changes nothing.
const STARTED: &str = r"
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
if redis.call('HGET', KEYS[1], 'status') == 'failed' then return 0 end
if redis.call('SISMEMBER', KEYS[2], ARGV[1]) == 1 then return 0 end
redis.call('HSET', KEYS[1], 'status', 'processing', 'message', ARGV[2])
return 1";

/// Counts a file as processed, and marks its task as failed if there is a second argument.
/// `KEYS[2]` holds the counted files, so that a file counts once. Failed files count too:
/// `processed` reaches `total` in any case.
const FINISHED: &str = r"
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
if redis.call('SADD', KEYS[2], ARGV[1]) == 1 then
  redis.call('EXPIRE', KEYS[2], 7200)
  redis.call('HINCRBY', KEYS[1], 'processed', 1)
end
if ARGV[2] ~= '' then
  redis.call('HSET', KEYS[1], 'status', 'failed', 'message', ARGV[2])
  return 1
end
local state = redis.call('HMGET', KEYS[1], 'status', 'processed', 'total')
if state[1] ~= 'failed' and state[3] and tonumber(state[2]) >= tonumber(state[3]) then
  redis.call('HSET', KEYS[1], 'status', 'completed', 'message', 'All files processed successfully')
end
return 1";

/// The progress display. Without Redis it does nothing.
#[derive(Clone)]
pub(crate) struct Progress {
    connection: Option<ConnectionManager>,
}

impl Progress {
    /// A display that does nothing.
    pub(crate) fn none() -> Self {
        Self { connection: None }
    }

    pub(crate) async fn connect(uri: &Secret) -> Result<Self, Failure> {
        let client = redis::Client::open(uri.reveal()).map_err(|_| {
            // The library's message may contain the connection string.
            let message = "redis/uri is not a valid connection string";
            Failure::fatal(Stage::Intake, Reason::InvalidRedisUri, message)
        })?;
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(1)
            .set_connection_timeout(Some(Duration::from_secs(3)))
            .set_response_timeout(Some(Duration::from_secs(3)));
        let connection = client
            .get_connection_manager_with_config(config)
            .await
            .map_err(|e| {
                Failure::transient(
                    Stage::Intake,
                    Reason::RedisUnavailable,
                    format!("redis: {e}"),
                )
            })?;
        Ok(Self {
            connection: Some(connection),
        })
    }

    /// Shows that a file is being processed.
    pub(crate) async fn started(&self, task: &Task) {
        let message = format!("Processing {}...", task.file.name);
        self.run(STARTED, &task.task_id, &[&task.file.file_id, &message])
            .await;
    }

    /// Shows that a file is searchable.
    pub(crate) async fn succeeded(&self, task: &Task) {
        self.run(FINISHED, &task.task_id, &[&task.file.file_id, ""])
            .await;
    }

    /// Shows that a file could not be processed.
    pub(crate) async fn failed(&self, task_id: &str, file_id: &str, why: &str) {
        let message = format!("File processing failed: {why}");
        self.run(FINISHED, task_id, &[file_id, &message]).await;
    }

    async fn run(&self, script: &str, task_id: &str, arguments: &[&str]) {
        let Some(connection) = &self.connection else {
            return;
        };
        let hash = format!("task:{task_id}");
        let script = Script::new(script);
        let mut call = script.key(&hash);
        call.key(format!("{hash}:counted"));
        for argument in arguments {
            call.arg(*argument);
        }
        let attempts = async {
            loop {
                match call.invoke_async::<i64>(&mut connection.clone()).await {
                    Ok(_) => return,
                    Err(error) => tracing::debug!(%error, "progress display unavailable"),
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        };
        if tokio::time::timeout(TIMEOUT, attempts).await.is_err() {
            tracing::warn!(task = task_id, "progress display not updated");
        }
    }
}

impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Progress")
            .field("enabled", &self.connection.is_some())
            .finish()
    }
}
