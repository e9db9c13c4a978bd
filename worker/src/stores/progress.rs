//! LAYRA's progress display: the Redis hash `task:{task_id}` that its API creates.
//!
//! It is only a display: documents do not need it. Updates go through a queue, and one task sends
//! them in order. While Redis is unavailable nobody waits for it, and the updates of finished files
//! are kept for later. While it is available, the update of a finished file comes before the commit
//! of its message, so that a crash between the two repeats it.
//!
//! An expired hash is not recreated, its time to live is not changed, and no fields are added.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisError, Script};
use tokio::sync::{Notify, oneshot, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::document::task::Task;
use crate::runtime::failure::{Failure, Reason, Stage};
use crate::runtime::settings::Secret;

/// Longest time for one update, the connection included. Redis answers within milliseconds, and one
/// document at most waits this long before Redis counts as unavailable.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Pause before the next attempt while Redis is unavailable. It doubles up to the longest pause.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Updates that wait for Redis. Each needs some hundred bytes.
const QUEUE_LENGTH: usize = 4096;
/// Attempts at an update that Redis refuses, for example because its key holds something else.
const REFUSALS_ALLOWED: u32 = 3;

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
    display: Option<Arc<Display>>,
}

struct Display {
    queue: Arc<Queue>,
    _sender: AbortOnDropHandle<()>,
}

/// One call of a script.
#[derive(Debug)]
struct Update {
    script: &'static str,
    task_id: String,
    file_id: String,
    message: String,
    /// Dropped when the update is delivered, or given up.
    _waiting: Option<oneshot::Sender<()>>,
}

/// Updates on their way to Redis, in order.
struct Queue {
    updates: Mutex<VecDeque<Arc<Update>>>,
    arrived: Notify,
    /// The circuit breaker of all documents: whether the latest attempt found Redis unavailable.
    unavailable: watch::Sender<bool>,
}

/// Makes updates.
trait Target: Send {
    fn make(&mut self, update: &Update) -> impl Future<Output = Result<(), Undelivered>> + Send;
}

/// Why an update was not made.
#[derive(Debug)]
enum Undelivered {
    /// Redis does not answer, or cannot write at the moment.
    Unavailable(String),
    /// Redis refuses this update.
    Refused(String),
}

impl Progress {
    /// A display that does nothing.
    pub(crate) fn none() -> Self {
        Self { display: None }
    }

    /// A display that connects in the background, once there is something to show.
    /// `authorities` is a file with the certificates to trust instead of those of the image.
    pub(crate) fn new(uri: &Secret, authorities: Option<&Path>) -> Result<Self, Failure> {
        let client = client(uri, authorities)?;
        let queue = Arc::new(Queue::new());
        let redis = Redis {
            client,
            connection: None,
        };
        let updates = Arc::clone(&queue);
        let sender = tokio::spawn(async move { updates.deliver(redis).await });
        Ok(Self {
            display: Some(Arc::new(Display {
                queue,
                _sender: AbortOnDropHandle::new(sender),
            })),
        })
    }

    /// Shows that a file is being processed. Does not wait.
    pub(crate) fn started(&self, task: &Task) {
        if let Some(display) = &self.display {
            display.queue.push(Update {
                script: STARTED,
                task_id: task.task_id.clone(),
                file_id: task.file.file_id.clone(),
                message: format!("Processing {}...", task.file.name),
                _waiting: None,
            });
        }
    }

    /// Shows that a file is searchable.
    pub(crate) async fn succeeded(&self, task: &Task) {
        self.finished(&task.task_id, &task.file.file_id, String::new())
            .await;
    }

    /// Shows that a file could not be processed.
    pub(crate) async fn failed(&self, task_id: &str, file_id: &str, why: &str) {
        let message = format!("File processing failed: {why}");
        self.finished(task_id, file_id, message).await;
    }

    /// Waits for the updates in the queue, for at most `limit` and only while Redis is available.
    pub(crate) async fn flush(&self, limit: Duration) {
        let Some(display) = &self.display else {
            return;
        };
        let queue = &display.queue;
        let empty = async {
            while queue.len() > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            () = empty => {}
            () = queue.is_unavailable() => {}
            () = tokio::time::sleep(limit) => {}
        }
        let updates = queue.len();
        if updates > 0 {
            tracing::warn!(
                updates,
                "progress display not updated, Redis is unavailable"
            );
        }
    }

    /// Waits for the update only while Redis is available.
    async fn finished(&self, task_id: &str, file_id: &str, message: String) {
        let Some(display) = &self.display else {
            return;
        };
        let (waiting, made) = oneshot::channel();
        display.queue.push(Update {
            script: FINISHED,
            task_id: task_id.to_owned(),
            file_id: file_id.to_owned(),
            message,
            _waiting: Some(waiting),
        });
        tokio::select! {
            _ = made => {}
            () = display.queue.is_unavailable() => {}
        }
    }
}

impl Queue {
    fn new() -> Self {
        Self {
            updates: Mutex::default(),
            arrived: Notify::new(),
            unavailable: watch::Sender::new(false),
        }
    }

    /// Adds an update. A full queue loses the oldest start of a file, or else its oldest update.
    fn push(&self, update: Update) {
        let mut updates = self.lock();
        if updates.len() >= QUEUE_LENGTH {
            // The first one is being sent.
            let oldest = updates.iter().skip(1).position(|old| old.script == STARTED);
            let lost = updates.remove(oldest.unwrap_or(0) + 1);
            let task = lost.map(|lost| lost.task_id.clone());
            tracing::warn!(task, "progress display: the queue is full, update lost");
        }
        updates.push_back(Arc::new(update));
        drop(updates);
        self.arrived.notify_one();
    }

    /// Sends updates in order, one at a time, until the task is aborted.
    async fn deliver(&self, mut target: impl Target) {
        let (mut failures, mut refusals) = (0_u32, 0);
        loop {
            let next = self.lock().front().cloned();
            let Some(update) = next else {
                self.arrived.notified().await;
                continue;
            };
            let made = tokio::time::timeout(TIMEOUT, target.make(&update)).await;
            let made = made.unwrap_or_else(|_| {
                let message = format!("no answer within {} s", TIMEOUT.as_secs());
                Err(Undelivered::Unavailable(message))
            });
            match made {
                Ok(()) => self.remove_first(),
                Err(Undelivered::Refused(error)) => {
                    refusals += 1;
                    if refusals < REFUSALS_ALLOWED {
                        tokio::time::sleep(FIRST_PAUSE).await;
                        continue;
                    }
                    let task = &update.task_id;
                    tracing::warn!(task, error, "progress display not updated");
                    self.remove_first();
                }
                Err(Undelivered::Unavailable(error)) => {
                    if !self.unavailable.send_replace(true) {
                        tracing::warn!(error, "progress display unavailable, documents continue");
                    }
                    tokio::time::sleep(pause(failures)).await;
                    failures = failures.saturating_add(1);
                    continue;
                }
            }
            (failures, refusals) = (0, 0);
            if self.unavailable.send_replace(false) {
                tracing::info!("progress display available again");
            }
        }
    }

    fn remove_first(&self) {
        self.lock().pop_front();
    }

    /// Returns when Redis is unavailable.
    async fn is_unavailable(&self) {
        let mut state = self.unavailable.subscribe();
        // Fails only without a sender, which `self` holds.
        let _ = state.wait_for(|unavailable| *unavailable).await;
    }

    fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Arc<Update>>> {
        self.updates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pause(failures: u32) -> Duration {
    FIRST_PAUSE
        .saturating_mul(2_u32.saturating_pow(failures))
        .min(LONGEST_PAUSE)
}

/// A connection that is opened when it is needed, and again after an error.
struct Redis {
    client: redis::Client,
    connection: Option<MultiplexedConnection>,
}

impl Target for Redis {
    async fn make(&mut self, update: &Update) -> Result<(), Undelivered> {
        // Put back only after an answer: a request that was given up leaves no connection behind.
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect(&self.client).await?,
        };
        let hash = format!("task:{}", update.task_id);
        let script = Script::new(update.script);
        let mut call = script.key(&hash);
        call.key(format!("{hash}:counted"))
            .arg(&update.file_id)
            .arg(&update.message);
        match call.invoke_async::<i64>(&mut connection).await {
            Ok(_) => {
                self.connection = Some(connection);
                Ok(())
            }
            Err(error) => Err(classify(&error)),
        }
    }
}

/// The library's messages may contain the connection string.
pub(crate) fn client(uri: &Secret, authorities: Option<&Path>) -> Result<redis::Client, Failure> {
    let invalid = |message: String| Failure::fatal(Stage::Intake, Reason::InvalidRedisUri, message);
    let Some(file) = authorities else {
        return redis::Client::open(uri.reveal())
            .map_err(|_| invalid("redis/uri is not a valid connection string".to_owned()));
    };
    let certificates = std::fs::read(file)
        .map_err(|error| invalid(format!("{} cannot be read: {error}", file.display())))?;
    let trusted = redis::TlsCertificates {
        client_tls: None,
        root_cert: Some(certificates),
    };
    redis::Client::build_with_tls(uri.reveal(), trusted).map_err(|_| {
        invalid(format!(
            "redis/uri is not a valid rediss:// URL, or {} has no certificate",
            file.display()
        ))
    })
}

async fn connect(client: &redis::Client) -> Result<MultiplexedConnection, Undelivered> {
    let settings = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(TIMEOUT))
        .set_response_timeout(Some(TIMEOUT));
    let connection = client.get_multiplexed_async_connection_with_config(&settings);
    connection
        .await
        .map_err(|error| Undelivered::Unavailable(error.to_string()))
}

/// Redis answers `WRONGTYPE` and `ERR` to an update that it cannot make. Its other answers are about
/// its own state, for example `LOADING` or `READONLY`.
fn classify(error: &RedisError) -> Undelivered {
    match error.code() {
        Some("WRONGTYPE" | "ERR") => Undelivered::Refused(error.to_string()),
        _ => Undelivered::Unavailable(error.to_string()),
    }
}

impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Progress")
            .field("enabled", &self.display.is_some())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::net::TcpListener;

    use super::*;
    use crate::document::task::FileMeta;

    fn task(file_id: &str) -> Task {
        Task {
            task_id: "t".into(),
            username: "u".into(),
            knowledge_base: "u_kb".into(),
            file: FileMeta {
                file_id: file_id.into(),
                key: "k".into(),
                name: "a.pdf".into(),
                url: None,
                version: None,
            },
        }
    }

    fn at(address: std::net::SocketAddr) -> Progress {
        Progress::new(&Secret::new(format!("redis://{address}/0")), None).unwrap()
    }

    fn update(script: &'static str, file_id: &str) -> Update {
        Update {
            script,
            task_id: "t".into(),
            file_id: file_id.into(),
            message: String::new(),
            _waiting: None,
        }
    }

    /// Unavailable at first. Refuses the file `refused`.
    #[derive(Default)]
    struct Fake {
        unavailable: u32,
        made: Arc<Mutex<Vec<String>>>,
    }

    impl Target for Fake {
        async fn make(&mut self, update: &Update) -> Result<(), Undelivered> {
            if self.unavailable > 0 {
                self.unavailable -= 1;
                return Err(Undelivered::Unavailable("connection refused".into()));
            }
            if update.file_id == "refused" {
                return Err(Undelivered::Refused("WRONGTYPE".into()));
            }
            self.made.lock().unwrap().push(update.file_id.clone());
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_redis_that_refuses_connections_costs_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let progress = at(address);
        let began = Instant::now();
        for file in 0..20 {
            let task = task(&file.to_string());
            progress.started(&task);
            progress.succeeded(&task).await;
        }
        progress.flush(Duration::from_mins(1)).await;
        assert!(began.elapsed() < Duration::from_secs(1), "{began:?}");
    }

    #[tokio::test]
    async fn only_the_first_document_waits_for_a_redis_that_never_answers() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let progress = at(listener.local_addr().unwrap());
        let began = Instant::now();
        progress.succeeded(&task("1")).await;
        assert!(began.elapsed() < 2 * TIMEOUT, "{:?}", began.elapsed());
        let began = Instant::now();
        for _ in 0..20 {
            progress.failed("t", "2", "x").await;
        }
        assert!(began.elapsed() < Duration::from_millis(500));
    }

    #[tokio::test]
    async fn updates_that_missed_an_outage_are_sent_in_order_when_it_ends() {
        let queue = Arc::new(Queue::new());
        for file in ["1", "2", "3"] {
            queue.push(update(FINISHED, file));
        }
        let made = Arc::new(Mutex::new(Vec::new()));
        let target = Fake {
            unavailable: 2,
            made: Arc::clone(&made),
        };
        let updates = Arc::clone(&queue);
        let delivery = tokio::spawn(async move { updates.deliver(target).await });
        queue.is_unavailable().await;
        while queue.len() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(*made.lock().unwrap(), ["1", "2", "3"]);
        assert!(!*queue.unavailable.borrow(), "the breaker is closed again");
        delivery.abort();
    }

    #[tokio::test]
    async fn an_update_that_redis_refuses_does_not_hold_up_others() {
        let queue = Arc::new(Queue::new());
        queue.push(update(FINISHED, "refused"));
        queue.push(update(FINISHED, "2"));
        let updates = Arc::clone(&queue);
        let delivery = tokio::spawn(async move { updates.deliver(Fake::default()).await });
        let delivered = async {
            while queue.len() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), delivered)
            .await
            .unwrap();
        assert!(!*queue.unavailable.borrow());
        delivery.abort();
    }

    #[test]
    fn a_full_queue_loses_starts_before_ends() {
        let queue = Queue::new();
        queue.push(update(FINISHED, "first"));
        queue.push(update(STARTED, "start"));
        for number in 2..=QUEUE_LENGTH {
            queue.push(update(FINISHED, &number.to_string()));
        }
        let kept = |queue: &Queue| -> Vec<String> {
            let updates = queue.lock();
            updates.iter().map(|kept| kept.file_id.clone()).collect()
        };
        assert_eq!(kept(&queue).len(), QUEUE_LENGTH);
        assert!(!kept(&queue).contains(&"start".to_owned()));
        queue.push(update(FINISHED, "last"));
        let kept = kept(&queue);
        assert_eq!(kept.len(), QUEUE_LENGTH);
        assert!(kept.contains(&"first".to_owned()) && !kept.contains(&"2".to_owned()));
    }

    #[tokio::test]
    async fn a_bad_connection_string_is_fatal_and_not_shown() {
        let failure = Progress::new(&Secret::new("hidden"), None).unwrap_err();
        assert_eq!(failure.class, crate::runtime::failure::Class::Fatal);
        assert!(!failure.message.contains("hidden"));
    }

    #[test]
    fn a_private_authority_needs_a_url_with_tls() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let uri = Secret::new("redis://:hidden@redis:6379/1");
        let failure = client(&uri, Some(file.path())).unwrap_err();
        assert!(failure.message.contains("rediss://"), "{}", failure.message);
        assert!(!failure.message.contains("hidden"));
    }
}
