//! All reads of a reconcile. Kubernetes objects come from the watch caches, offsets and indexes from
//! what is read in the background; Secrets and the workers are queried, each with a timeout. It
//! changes nothing but the [`ReadCache`].

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{
    Resource, ResourceExt,
    runtime::reflector::{ObjectRef, Store},
};
use layra_autoscaler::{Backlog, Counts};
use layra_crds::{CA_FILE, IngestionPipeline, KafkaSecurity, SecretKind};
use serde::de::DeserializeOwned;

use super::{
    Context,
    compact::Compact,
    counts::{self, Reports},
    plan::spec_in_force,
    pods::WorkerPod,
    reason::Reason,
    rebuild_job::{self, RebuildJob},
    requests::Requests,
    retention_runs::{self, RetentionRun},
    rivals,
    secrets::ReadSecret,
    secrets_hash::SecretsHash,
    world::{Live, LiveQuery, PastWrites, Problem, SecretState, Topics, World},
};
use crate::{
    kafka::{Connection, KafkaError, Question, Subscriber, TopicSettings},
    milvus::{CollectionSizes, IndexReport, IndexWatch, MilvusError, Pace},
    resources::{self, JobKind},
};

/// Label of a pod with the UID of its Job.
const JOB_UID: &str = "batch.kubernetes.io/controller-uid";

/// How often the workers' counts are read.
const COUNTS_AGE: Duration = Duration::from_secs(5);
/// For this long the topics are taken as unchanged while Kafka does not respond: one lost answer is
/// not an outage.
const TOPICS_AGE: Duration = Duration::from_secs(30);

/// Results of earlier reads that are still recent enough. The times are monotonic: a clock that is
/// set back must not keep an old result.
#[derive(Default)]
pub(super) struct ReadCache {
    counts: Option<(Instant, BTreeMap<String, Counts>, Reports)>,
    topics: Option<(Instant, Topics)>,
    /// The check of the indexes, in the background.
    indexes: Option<IndexWatch>,
    secrets_hash: SecretsHash,
    /// The requests in flight in the pods that answer questions.
    requests: Requests,
}

impl ReadCache {
    /// The sizes of the collections, once they are known.
    pub(super) fn collection_sizes(&self) -> Option<CollectionSizes> {
        self.indexes.as_ref()?.sizes()
    }

    fn recent_topics(&self, now: Instant) -> Option<Topics> {
        let (at, topics) = self.topics.as_ref()?;
        (now.saturating_duration_since(*at) < TOPICS_AGE).then_some(*topics)
    }
}

/// Reads what a plan depends on, except the objects of the pipeline ([`add_objects`]).
pub(super) async fn observe(
    context: &Context,
    pipeline: &IngestionPipeline,
    cache: &mut ReadCache,
    past_writes: &PastWrites,
    now: Timestamp,
) -> World {
    let started = Instant::now();
    let rivals = rivals::find(context, pipeline).await;
    let rebuild_obstacle = rivals::obstacle_of(context, pipeline, JobKind::Reindex).await;
    let reembed_obstacle = rivals::obstacle_of(context, pipeline, JobKind::Reembed).await;
    let secrets = context
        .secrets
        .read(&context.client, &context.namespace, &pipeline.spec)
        .await;
    let kafka = connection(pipeline, &secrets);
    let pods = pods_called(context, pipeline, resources::WORKER_NAME, now);
    let query_pods = pods_called(context, pipeline, resources::QUERY_NAME, now);
    let requests = std::mem::take(&mut cache.requests);
    let (job, job_pods) = rebuild_job(context, pipeline, JobKind::Reindex, now);
    let (reembed_job, reembed_pods) = rebuild_job(context, pipeline, JobKind::Reembed, now);
    let indexes = indexes(context, pipeline, &secrets, &mut cache.indexes);
    if let Some(watch) = &cache.indexes {
        let jobs = [&job, &reembed_job];
        let mut jobs = jobs.into_iter().flatten();
        watch.set_pace(pace(pipeline, jobs.any(RebuildJob::is_running)));
    }
    let (answer, counts, progress, reembed_progress, requests) = tokio::join!(
        query_kafka(context, pipeline, kafka.as_ref()),
        read_counts(context, pipeline, &pods, cache.counts.take(), started),
        rebuild_job::progress(&context.http, &job_pods),
        rebuild_job::progress(&context.http, &reembed_pods),
        requests.read(&context.http, pipeline, &query_pods, now),
    );
    cache.counts = Some(counts.clone());
    cache.requests = requests.clone();
    let (topics, topic_settings, backlog) = match answer {
        Ok((topics, settings, backlog)) => {
            cache.topics = Some((started, topics));
            (Ok(topics), settings, backlog)
        }
        Err(problem) => (
            cache.recent_topics(started).ok_or(problem.clone()),
            [None; 3],
            Err(problem),
        ),
    };
    World {
        live: Live::default(),
        retention_runs: Vec::new(),
        pods,
        query_pods,
        requests: requests.readings(),
        secrets_hash: secrets_hash(pipeline, &secrets, &mut cache.secrets_hash),
        secrets: secrets.into_iter().map(|secret| secret.state).collect(),
        kafka,
        topics,
        topic_settings,
        backlog,
        counts: counts.1,
        reports: counts.2,
        past_writes: past_writes.clone(),
        indexes,
        rebuild_job: job.map(|job| RebuildJob { progress, ..job }),
        rebuild_obstacle,
        reembed_job: reembed_job.map(|job| RebuildJob {
            progress: reembed_progress,
            ..job
        }),
        reembed_pods,
        reembed_obstacle,
        rivals,
        has_unlisted_rivals: !context.pipelines.are_listed(),
    }
}

/// Adds the objects of the pipeline in the watch caches. As Rust types they take some fifty
/// kilobytes, so that the many pipelines that wait for Kafka at a start must not have them.
pub(super) fn add_objects(
    context: &Context,
    pipeline: &IngestionPipeline,
    now: Timestamp,
    world: &mut World,
) {
    world.live = live(context, pipeline);
    world.retention_runs = retention_runs(context, pipeline, &world.live, now);
}

fn live(context: &Context, pipeline: &IngestionPipeline) -> Live {
    let name = resources::object_name(&pipeline.name_any());
    let namespace = &context.namespace;
    let stores = &context.stores;
    let retention = resources::retention_name(&pipeline.name_any());
    Live {
        config_map: object(&stores.config_maps, &name, namespace),
        deployment: object(&stores.deployments, &name, namespace),
        service: object(&stores.services, &name, namespace),
        disruption_budget: object(&stores.disruption_budgets, &name, namespace),
        retention: object(&stores.cron_jobs, &retention, namespace),
        query: live_query(context, pipeline),
    }
}

fn live_query(context: &Context, pipeline: &IngestionPipeline) -> LiveQuery {
    let pipeline = pipeline.name_any();
    let name = resources::query_name(&pipeline);
    let namespace = &context.namespace;
    let stores = &context.stores;
    let is_query = |labels: &BTreeMap<String, String>| {
        let has = |label: &str, text: &str| labels.get(label).is_some_and(|it| it == text);
        has(resources::INSTANCE_LABEL, &pipeline)
            && has(resources::COMPONENT_LABEL, resources::QUERY)
    };
    let services = stores
        .services
        .state_filter(|service| is_query(service.labels()));
    LiveQuery {
        deployment: object(&stores.deployments, &name, namespace),
        disruption_budget: object(&stores.disruption_budgets, &name, namespace),
        services: services
            .iter()
            .filter_map(|service| service.object())
            .collect(),
    }
}

/// An object in a watch cache.
fn object<K>(cache: &Store<Compact<K>>, name: &str, namespace: &str) -> Option<Arc<K>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + 'static,
{
    let reference = ObjectRef::new(name).within(namespace);
    cache.get(&reference)?.object()
}

/// The pipeline's pods with this value of the label `app.kubernetes.io/name`.
fn pods_called(
    context: &Context,
    pipeline: &IngestionPipeline,
    value: &str,
    now: Timestamp,
) -> Vec<WorkerPod> {
    let name = pipeline.name_any();
    let pods = context.stores.pods.state_filter(|pod| {
        let label = |label| pod.labels().get(label).map(String::as_str);
        label(resources::INSTANCE_LABEL) == Some(&name)
            && label(resources::NAME_LABEL) == Some(value)
    });
    let created = pipeline.creation_timestamp().map(|time| time.0);
    pods.iter()
        .map(|pod| WorkerPod::read(pod, now))
        .filter(|pod| !pod.is_of_predecessor(created))
        .collect()
}

/// The Job of a kind that replaces collections, with its pods.
fn rebuild_job(
    context: &Context,
    pipeline: &IngestionPipeline,
    kind: JobKind,
    now: Timestamp,
) -> (Option<RebuildJob>, Vec<WorkerPod>) {
    let name = kind.job_name(&pipeline.name_any());
    let reference = ObjectRef::new(&name).within(&context.namespace);
    let job = context.stores.jobs.get(&reference);
    let Some(job) = job.and_then(|job| job.object()) else {
        return (None, Vec::new());
    };
    let pods = pods_of_job(context, &job, now);
    (Some(RebuildJob::read(&job, &pods, pipeline, now)), pods)
}

/// The runs of the live `CronJob` that have ended.
fn retention_runs(
    context: &Context,
    pipeline: &IngestionPipeline,
    live: &Live,
    now: Timestamp,
) -> Vec<RetentionRun> {
    let Some(uid) = live.retention.as_ref().and_then(|live| live.uid()) else {
        return Vec::new();
    };
    let name = pipeline.name_any();
    let jobs = context.stores.jobs.state_filter(|job| {
        let label = |label| job.labels().get(label).map(String::as_str);
        label(resources::INSTANCE_LABEL) == Some(&name)
            && label(resources::COMPONENT_LABEL) == Some(resources::RETENTION)
    });
    let jobs = jobs.iter().filter_map(|job| job.object());
    let ours = jobs.filter(|job| job.owner_references().iter().any(|owner| owner.uid == uid));
    let with_pods = ours.map(|job| {
        let pods = pods_of_job(context, &job, now);
        (Arc::unwrap_or_clone(job), pods)
    });
    retention_runs::ended(with_pods.collect())
}

fn pods_of_job(context: &Context, job: &Job, now: Timestamp) -> Vec<WorkerPod> {
    let uid = job.uid().unwrap_or_default();
    let of_job = |pod: &Pod| pod.labels().get(JOB_UID) == Some(&uid);
    let pods = context.stores.pods.state_filter(of_job);
    pods.iter().map(|pod| WorkerPod::read(pod, now)).collect()
}

/// What is asked of Milvus how often.
fn pace(pipeline: &IngestionPipeline, is_rebuilding: bool) -> Pace {
    Pace {
        counts_vectors: !JobKind::Reindex.is_only_reported(pipeline),
        is_rebuilding,
    }
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

/// Topics, their settings and their offsets.
type KafkaAnswer = (Topics, [Option<TopicSettings>; 3], Result<Backlog, Problem>);

async fn query_kafka(
    context: &Context,
    pipeline: &IngestionPipeline,
    connection: Result<&Connection, &Problem>,
) -> Result<KafkaAnswer, Problem> {
    let connection = connection.map_err(Clone::clone)?;
    let question = question(pipeline);
    let servers = &pipeline.spec.source.kafka.bootstrap_servers;
    let triggers = context.triggers.clone();
    let reference = ObjectRef::from_obj(pipeline);
    // With a full queue the trigger is dropped: the pipeline is reconciled after its interval anyway.
    let subscriber = Subscriber {
        name: subscriber_name(&context.namespace, &pipeline.name_any()),
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
        answer.settings,
        answer
            .backlog
            .map_err(|error| kafka_problem(&error, servers)),
    ))
}

/// The name under which a pipeline asks Kafka.
pub(super) fn subscriber_name(namespace: &str, pipeline: &str) -> String {
    format!("{namespace}/{pipeline}")
}

/// What the workers read: a change that waits for its confirmation does not hide their backlog.
fn question(pipeline: &IngestionPipeline) -> Question {
    let kafka = &spec_in_force(pipeline).source.kafka;
    Question {
        topic: kafka.topic.clone(),
        ranges_topic: kafka.ranges_topic(),
        dead_letter_topic: kafka.dead_letter_topic(),
        consumer_group: kafka.consumer_group.clone(),
    }
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
        KafkaError::Unauthorized(message) => Problem::new(
            Reason::KafkaUnauthorized,
            format!(
                "Kafka at {servers} does not allow the operator's user what it must do: {message}. Grant the user Describe and Create on the topics and Describe on the consumer group."
            ),
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
    last: Option<(Instant, BTreeMap<String, Counts>, Reports)>,
    now: Instant,
) -> (Instant, BTreeMap<String, Counts>, Reports) {
    match last {
        Some(last) if now.saturating_duration_since(last.0) < COUNTS_AGE => last,
        _ => {
            let ranges = spec_in_force(pipeline).source.kafka.ranges_topic();
            let (counts, reports) = counts::read(&context.http, pods, &ranges).await;
            (now, counts, reports)
        }
    }
}

/// The latest result of the check in the background, which begins if there is none for this spec.
fn indexes(
    context: &Context,
    pipeline: &IngestionPipeline,
    secrets: &[ReadSecret],
    watch: &mut Option<IndexWatch>,
) -> Result<IndexReport, Problem> {
    let spec = &pipeline.spec.stores.milvus;
    let of_milvus = || {
        let all = secrets.iter();
        all.filter(|secret| secret.state.kind == SecretKind::Milvus)
    };
    if let Some(problem) = of_milvus().find_map(|secret| secret.state.problem.clone()) {
        return Err(problem);
    }
    let text = |file| of_milvus().find_map(|secret| secret.text(file));
    let (token, authorities) = (text("token"), text(CA_FILE));
    if watch
        .as_ref()
        .is_some_and(|watch| !watch.is_of(spec, token, authorities))
    {
        *watch = None;
    }
    let watch = watch.get_or_insert_with(|| {
        let triggers = context.triggers.clone();
        let reference = ObjectRef::from_obj(pipeline);
        let on_change = move || drop(triggers.try_send(reference.clone()));
        IndexWatch::start(&context.milvus, spec, token, authorities, on_change)
    });
    let Some(result) = watch.latest() else {
        let message = "The collections in Milvus are being checked for the first time.";
        return Err(Problem::new(Reason::MilvusChecking, message));
    };
    result.map_err(|error| match error {
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

#[cfg(test)]
mod tests {
    use layra_crds::{ConfirmedStatus, IngestionPipelineStatus};

    use super::*;
    use crate::fixtures;

    #[test]
    fn the_backlog_is_that_of_the_workers_until_a_change_is_confirmed() {
        let mut pipeline = fixtures::pipeline();
        let kafka = &mut pipeline.spec.source.kafka;
        kafka.consumer_group = "new".to_owned();
        kafka.ranges_topic = Some("new.ranges".to_owned());
        let read = |pipeline: &_| {
            let asked = question(pipeline);
            (asked.consumer_group, asked.ranges_topic)
        };
        let new = ("new".to_owned(), "new.ranges".to_owned());
        assert_eq!(read(&pipeline), new, "no worker has run yet");

        pipeline.status = Some(IngestionPipelineStatus {
            confirmed: Some(ConfirmedStatus {
                consumer_group: "old".to_owned(),
                ranges_topic: "old.ranges".to_owned(),
                collection: pipeline.spec.stores.milvus.collection.clone(),
                database: pipeline.spec.stores.mongodb.database.clone(),
                model_family: pipeline.spec.embedding.model.family.to_string(),
            }),
            ..IngestionPipelineStatus::default()
        });
        let old = ("old".to_owned(), "old.ranges".to_owned());
        assert_eq!(read(&pipeline), old);

        let annotation = "ingest.layra.io/confirm-change".to_owned();
        let value = "source.kafka.consumerGroup=new,source.kafka.rangesTopic=new.ranges".to_owned();
        pipeline.metadata.annotations = Some(BTreeMap::from([(annotation, value)]));
        assert_eq!(read(&pipeline), new);
    }
}
