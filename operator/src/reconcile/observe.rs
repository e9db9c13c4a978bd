//! All reads of a reconcile. Kubernetes objects come from the watch caches; Secrets, Kafka, Milvus and
//! the workers are queried, each with a timeout. It changes nothing but the [`ReadCache`].

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use kube::{ResourceExt, runtime::reflector::ObjectRef};
use layra_autoscaler::{Backlog, Counts};
use layra_crds::{IngestionPipeline, KafkaSecurity, SecretKind};

use super::{
    Context, counts,
    pods::WorkerPod,
    reason::Reason,
    rivals,
    secrets::ReadSecret,
    secrets_hash::SecretsHash,
    world::{Live, PastWrites, Problem, SecretState, Topics, World},
};
use crate::{
    kafka::{Connection, KafkaError, Question, Subscriber},
    milvus::{IndexReport, MilvusError},
    resources,
};

/// How often the workers' counts are read.
const COUNTS_AGE: Duration = Duration::from_secs(5);
/// For this long the topics are taken as unchanged while Kafka does not respond: one lost answer is
/// not an outage.
const TOPICS_AGE: Duration = Duration::from_secs(30);
/// How often indexes are checked, after a success and after a failure.
const INDEXES_AGE: Duration = Duration::from_mins(2);
const FAILED_INDEXES_AGE: Duration = Duration::from_secs(10);

/// Results of earlier reads that are still recent enough. The times are monotonic: a clock that is
/// set back must not keep an old result.
#[derive(Default)]
pub(super) struct ReadCache {
    counts: Option<(Instant, BTreeMap<String, Counts>)>,
    topics: Option<(Instant, Topics)>,
    indexes: Option<IndexCheck>,
    secrets_hash: SecretsHash,
}

struct IndexCheck {
    at: Instant,
    /// Generation of the spec that the indexes were compared with.
    generation: Option<i64>,
    result: Result<IndexReport, Problem>,
}

impl ReadCache {
    fn recent_topics(&self, now: Instant) -> Option<Topics> {
        let (at, topics) = self.topics.as_ref()?;
        (now.saturating_duration_since(*at) < TOPICS_AGE).then_some(*topics)
    }
}

/// Reads everything that a plan depends on.
pub(super) async fn observe(
    context: &Context,
    pipeline: &IngestionPipeline,
    cache: &mut ReadCache,
    past_writes: &PastWrites,
    now: Timestamp,
) -> World {
    let started = Instant::now();
    let rivals = rivals::find(context, pipeline).await;
    let secrets = context
        .secrets
        .read(&context.client, &context.namespace, &pipeline.spec)
        .await;
    let kafka = connection(pipeline, &secrets);
    let pods = worker_pods(context, pipeline, now);
    let (answer, indexes, counts) = tokio::join!(
        query_kafka(context, pipeline, kafka.as_ref()),
        check_indexes(context, pipeline, &secrets, cache.indexes.take(), started),
        read_counts(context, pipeline, &pods, cache.counts.take(), started),
    );
    cache.counts = Some(counts.clone());
    let (topics, backlog) = match answer {
        Ok((topics, backlog)) => {
            cache.topics = Some((started, topics));
            (Ok(topics), backlog)
        }
        Err(problem) => (
            cache.recent_topics(started).ok_or(problem.clone()),
            Err(problem),
        ),
    };
    let report = indexes.result.clone();
    cache.indexes = Some(indexes);
    World {
        live: live(context, pipeline),
        pods,
        secrets_hash: secrets_hash(pipeline, &secrets, &mut cache.secrets_hash),
        secrets: secrets.into_iter().map(|secret| secret.state).collect(),
        kafka,
        topics,
        backlog,
        counts: counts.1,
        past_writes: past_writes.clone(),
        indexes: report,
        rivals,
    }
}

fn live(context: &Context, pipeline: &IngestionPipeline) -> Live {
    let name = resources::object_name(&pipeline.name_any());
    let namespace = &context.namespace;
    let stores = &context.stores;
    Live {
        config_map: stores
            .config_maps
            .get(&ObjectRef::new(&name).within(namespace)),
        deployment: stores
            .deployments
            .get(&ObjectRef::new(&name).within(namespace)),
        service: stores
            .services
            .get(&ObjectRef::new(&name).within(namespace)),
        disruption_budget: stores
            .disruption_budgets
            .get(&ObjectRef::new(&name).within(namespace)),
    }
}

fn worker_pods(context: &Context, pipeline: &IngestionPipeline, now: Timestamp) -> Vec<WorkerPod> {
    let name = pipeline.name_any();
    let pods = context.stores.pods.state_filter(|pod| {
        let instance = pod.labels().get(resources::INSTANCE_LABEL);
        instance == Some(&name)
    });
    pods.iter().map(|pod| WorkerPod::read(pod, now)).collect()
}

/// Of what workers read of the Secrets. Workers are replaced when it changes.
fn secrets_hash(
    pipeline: &IngestionPipeline,
    secrets: &[ReadSecret],
    hash: &mut SecretsHash,
) -> Option<String> {
    if secrets.iter().any(|secret| secret.state.problem.is_some()) {
        return None;
    }
    let data: Vec<_> = secrets
        .iter()
        .filter(|secret| secret.state.kind != SecretKind::Model)
        .map(|secret| (secret.state.kind.directory(), secret.used_by_worker()))
        .collect();
    Some(hash.of(&pipeline.uid().unwrap_or_default(), &data))
}

/// The connection to the pipeline's Kafka, or why the Secret for it cannot be used.
fn connection(pipeline: &IngestionPipeline, secrets: &[ReadSecret]) -> Result<Connection, Problem> {
    let security = match secrets
        .iter()
        .find(|secret| secret.state.kind == SecretKind::Kafka)
    {
        None => KafkaSecurity::plaintext(),
        Some(ReadSecret {
            state:
                SecretState {
                    problem: Some(problem),
                    ..
                },
            ..
        }) => {
            return Err(problem.clone());
        }
        Some(secret) => secret.kafka_security()?,
    };
    let bootstrap_servers = pipeline.spec.source.kafka.bootstrap_servers.clone();
    Ok(Connection {
        bootstrap_servers,
        security,
    })
}

async fn query_kafka(
    context: &Context,
    pipeline: &IngestionPipeline,
    connection: Result<&Connection, &Problem>,
) -> Result<(Topics, Result<Backlog, Problem>), Problem> {
    let connection = connection.map_err(Clone::clone)?;
    let kafka = &pipeline.spec.source.kafka;
    let question = Question {
        topic: kafka.topic.clone(),
        ranges_topic: kafka.ranges_topic(),
        dead_letter_topic: kafka.dead_letter_topic(),
        consumer_group: kafka.consumer_group.clone(),
    };
    let servers = &kafka.bootstrap_servers;
    let triggers = context.triggers.clone();
    let reference = ObjectRef::from_obj(pipeline);
    // With a full queue the trigger is dropped: the pipeline is reconciled after its interval anyway.
    let subscriber = Subscriber {
        name: reference.to_string(),
        on_change: Arc::new(move || drop(triggers.try_send(reference.clone()))),
    };
    let answer = context
        .kafka
        .query(connection, &question, &subscriber)
        .await
        .map_err(|error| kafka_problem(&error, servers))?;
    let topics = Topics {
        brokers: answer.brokers,
        tasks: answer.topic,
        ranges: answer.ranges_topic,
        dead_letters: answer.dead_letter_topic,
    };
    Ok((
        topics,
        answer
            .backlog
            .map_err(|error| kafka_problem(&error, servers)),
    ))
}

fn kafka_problem(error: &KafkaError, servers: &str) -> Problem {
    match error {
        KafkaError::Settings(message) => Problem::new(
            Reason::KafkaSettingsInvalid,
            format!("The Kafka client cannot be created: {message}"),
        ),
        KafkaError::Unreachable(message) => Problem::new(
            Reason::KafkaUnreachable,
            format!("Kafka at {servers} does not respond: {message}"),
        ),
        KafkaError::Refused(message) => Problem::new(
            Reason::KafkaRefused,
            format!("Kafka at {servers} refused the request: {message}"),
        ),
    }
}

/// The counts of the workers, at most [`COUNTS_AGE`] old.
async fn read_counts(
    context: &Context,
    pipeline: &IngestionPipeline,
    pods: &[WorkerPod],
    last: Option<(Instant, BTreeMap<String, Counts>)>,
    now: Instant,
) -> (Instant, BTreeMap<String, Counts>) {
    match last {
        Some((at, counts)) if now.saturating_duration_since(at) < COUNTS_AGE => (at, counts),
        _ => {
            let ranges = pipeline.spec.source.kafka.ranges_topic();
            (now, counts::read(&context.http, pods, &ranges).await)
        }
    }
}

/// The last check while it is recent, else a new one.
async fn check_indexes(
    context: &Context,
    pipeline: &IngestionPipeline,
    secrets: &[ReadSecret],
    last: Option<IndexCheck>,
    now: Instant,
) -> IndexCheck {
    let generation = pipeline.metadata.generation;
    if let Some(last) = last {
        let max_age = if last.result.is_ok() {
            INDEXES_AGE
        } else {
            FAILED_INDEXES_AGE
        };
        if last.generation == generation && now.saturating_duration_since(last.at) < max_age {
            return last;
        }
    }
    let result = indexes(context, pipeline, secrets).await;
    IndexCheck {
        at: now,
        generation,
        result,
    }
}

async fn indexes(
    context: &Context,
    pipeline: &IngestionPipeline,
    secrets: &[ReadSecret],
) -> Result<IndexReport, Problem> {
    let spec = &pipeline.spec.stores.milvus;
    let secret = secrets
        .iter()
        .find(|secret| secret.state.kind == SecretKind::Milvus);
    if let Some(problem) = secret.and_then(|secret| secret.state.problem.clone()) {
        return Err(problem);
    }
    let token = secret.and_then(|secret| secret.text("token"));
    context
        .milvus
        .check_indexes(spec, token)
        .await
        .map_err(|error| match error {
            MilvusError::Unreachable(message) => Problem::new(
                Reason::MilvusUnreachable,
                format!("Milvus at {} does not respond: {message}", spec.uri),
            ),
            MilvusError::Unauthenticated(message) => Problem::new(
                Reason::MilvusUnauthenticated,
                format!("Milvus at {} rejected the token: {message}", spec.uri),
            ),
        })
}
