//! Plans the changes that lead from the observed state to the spec. Pure: no I/O, and the time is an
//! argument.
//!
//! Read [`plan`] from top to bottom: it is the whole operator on one page.

mod adopted;
mod conditions;
mod configuration;
mod confirmation;
mod conflict;
mod events;
mod fleet;
mod indexes;
mod manifests;
mod manual;
mod model;
mod model_reference;
mod models;
mod pages;
mod query;
mod quotas;
mod rebuild;
mod rebuild_progress;
mod rebuild_words;
mod refusals;
mod retention;
mod scaling;
mod shared;
mod stall;
mod template;
mod topic;
mod unmanaged;
mod upgrade;
mod vector_store;
mod warnings;
mod workers;
mod writes;

use jiff::Timestamp;
use kube::ResourceExt;
use layra_autoscaler::{Decision, Memory};
use layra_crds::{
    ConfigError, IngestionPipeline, IngestionPipelineStatus, ScalingStatus,
    condition_types::{
        QUERY_READY, READY, RECONCILING, SCALING, STALLED, TOPIC_READY, VECTOR_STORE_READY,
        WORKERS_AVAILABLE,
    },
};

use super::{
    reason::{Progress, Reason},
    world::World,
};
use crate::{
    kafka::TopicAction,
    resources::{self, Inputs, JobKind, Kind, Workload},
};
use conditions::{Status, Verdict};
use scaling::Scaling;
use stall::Stall;
use template::Template;
use writes::Objects;

pub(crate) use confirmation::{confirmed_spec, spec_in_force};
pub(crate) use conflict::{age, may_conflict, same_source};
pub(crate) use events::{PipelineEvent, topic_changed};
pub(crate) use manifests::{Manifest, template_hash};
pub(crate) use query::Unwanted;
pub(crate) use rebuild::JobAction;
pub(crate) use shared::{Sharer, rebuild_obstacle, shares_collections};
pub(crate) use stall::has_short_name;
pub(crate) use template::DryRun;

/// The changes to make and the state to report.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Changes to Kafka, in order; those of [`topic_actions`].
    pub(crate) topic_actions: Vec<TopicAction>,
    /// Objects to apply, in order: the ConfigMap comes before the Deployment that reads it.
    pub(crate) manifests: Vec<Manifest>,
    /// The Deployment to check by a dry run before the manifests are applied.
    pub(crate) dry_run: Option<DryRun>,
    /// Kinds of objects that differ from the spec, including those whose next write is not due yet.
    pub(crate) outdated: Vec<Kind>,
    /// Pods whose deletion cost changes, with the new cost. Set before the Deployment is scaled
    /// down.
    pub(crate) deletion_costs: Vec<(String, &'static str)>,
    /// What becomes of the Job that rebuilds collections with another index.
    pub(crate) job_action: Option<JobAction>,
    /// What becomes of the Job that embeds collections of another model again.
    pub(crate) reembed_action: Option<JobAction>,
    /// UID of the `CronJob` to delete: the spec has no retention.
    pub(crate) unwanted_cron_job: Option<String>,
    /// Objects of the pods that answer questions to delete.
    pub(crate) unwanted_query: Vec<Unwanted>,
    /// The number of workers to write into `scaling.replicas`.
    pub(crate) recorded_replicas: Option<i32>,
    /// The scaling decision; `None` while paused or in mode `Manual`.
    pub(crate) decision: Option<Decision>,
    /// State of the autoscaler for the next plan.
    pub(crate) autoscaler: Option<Memory>,
    pub(crate) status: IngestionPipelineStatus,
    pub(crate) events: Vec<PipelineEvent>,
}

impl Plan {
    pub(crate) fn is_ready(&self) -> bool {
        conditions::find(&self.status.conditions, READY)
            .is_some_and(|condition| condition.status == "True")
    }

    /// What becomes of the Jobs that replace collections.
    pub(crate) fn job_actions(&self) -> [(JobKind, Option<&JobAction>); 2] {
        [
            (JobKind::Reindex, self.job_action.as_ref()),
            (JobKind::Reembed, self.reembed_action.as_ref()),
        ]
    }

    /// Drops the event for a rollout that did not happen.
    pub(crate) fn forget_rollout(&mut self) {
        self.events
            .retain(|event| event.reason != Reason::RolloutStarted);
    }

    /// Keeps the last scaling decision in the status: the number of workers was not written into
    /// the spec, so the next plan must decide the same again.
    pub(crate) fn forget_record(&mut self, pipeline: &IngestionPipeline) {
        let before = pipeline.status.as_ref();
        self.status.scaling = before.and_then(|status| status.scaling.clone());
    }
}

/// The changes to make to Kafka, in order.
pub(crate) fn topic_actions(
    pipeline: &IngestionPipeline,
    world: &World,
    now: Timestamp,
) -> Vec<TopicAction> {
    let stall = Stall::judge(pipeline, world);
    topics(pipeline, world, stall.as_ref(), now).0
}

/// The changes to make to Kafka, and what is to be said about the topics.
fn topics(
    pipeline: &IngestionPipeline,
    world: &World,
    stall: Option<&Stall>,
    now: Timestamp,
) -> (Vec<TopicAction>, Verdict) {
    let spec = spec_in_force(pipeline);
    let mut kafka = spec.source.kafka.clone();
    kafka.partitions = kafka.wanted_partitions(pipeline.spec.scaling.max_replicas);
    let kafka = &kafka;
    let failures = &world.past_writes.topic_failures;
    let (mut actions, verdict) = topic::plan(kafka, &world.topics, failures, now);
    if pipeline.spec.paused || stall.is_some() {
        actions.clear();
    }
    let before = pipeline.status.as_ref();
    let before = before.and_then(|status| conditions::find(&status.conditions, TOPIC_READY));
    let before = before.and_then(Verdict::of);
    let verdict = adopted::judge(verdict, kafka, &world.topic_settings, before);
    (actions, verdict)
}

/// Plans a reconcile of a pipeline. `memory` is the autoscaler's state after the last plan.
pub(crate) fn plan(
    pipeline: &IngestionPipeline,
    world: &World,
    memory: Option<&Memory>,
    default_image: &str,
    now: Timestamp,
) -> Result<Plan, ConfigError> {
    let spec = &pipeline.spec;
    let before = pipeline.status.clone().unwrap_or_default();

    let stall = Stall::judge(pipeline, world);
    let scaling = match &stall {
        Some(stall) if !spec.paused => scaling::stalled(pipeline, world, stall, memory, now),
        _ => scaling::plan(pipeline, world, memory, now),
    };
    let mut workload = workload(pipeline, world, &scaling, default_image)?;
    let known_model = model_reference::next(pipeline, world, stall.is_some());
    resources::tell_model(&mut workload.config_map, &known_model)?;
    let past = &world.past_writes;
    let template_current = manifests::has_template(&workload.deployment, &world.live, past);
    let template = Template::judge(
        &workload,
        world,
        template_current,
        &before.conditions,
        pipeline.metadata.generation,
        now,
    );
    let live_retention = world.live.retention.as_deref();
    let rest = retention::Rest {
        is_held: spec.paused || stall.is_some() || template.refusal.is_some(),
        is_stalled: conditions::find(&before.conditions, STALLED).is_some(),
    };
    workload.retention = retention::cron_job(pipeline, live_retention, rest, default_image);
    let query_situation = query::Situation {
        pipeline,
        world,
        before: &before,
        is_held: spec.paused || stall.is_some(),
        model: known_model.reference.as_ref(),
        default_image,
        now,
    };
    let mut query = query::plan(&query_situation);
    workload.query = query.objects.take();
    let upgrade_held = upgrade::held(&workload.deployment, default_image);
    let generation = pipeline.metadata.generation;
    if template.refusal.is_some() || refusals::hold_template(&workload, world, generation) {
        workload.deployment = template::with_live_template(workload.deployment, &world.live);
    }
    let objects = Objects {
        pipeline,
        world,
        before: &before,
        scaling: &scaling,
        stall: stall.as_ref(),
        template_current,
        upgrade_held,
        model_reference: known_model.reference.as_ref(),
        now,
    };
    let writes = objects.plan(&workload, template);

    let (topic_actions, topic) = topics(pipeline, world, stall.as_ref(), now);
    let inputs = rebuild::Inputs {
        pipeline,
        world,
        is_stalled: stall.is_some(),
        config_current: writes.config_current,
        default_image,
    };
    let rebuilds = rebuild::plans(inputs, &before, known_model.reference.as_ref(), now);
    let verdicts = Verdicts {
        topic,
        vector_store: vector_store::of(pipeline, world, &before, &rebuilds),
        workers: indexes::judge(writes.workers, &world.reports),
        scaling: scaling.verdict,
        query: query::verdict(&query_situation, &query, writes.query_refusal),
    };
    let mut status = status(pipeline, world, &before, verdicts, scaling.status, now);
    status.confirmed = confirmation::next(pipeline, world, stall.is_some());
    status.index = rebuilds.index.status;
    status.models = rebuilds.models.status;
    status.other_model_collections = rebuilds.other_model_collections;
    status.query = query.status;
    status.model_reference = known_model.reference;
    let (retained, retention_events) =
        retention::follow(pipeline, world, before.retention.as_ref());
    status.retention = retained;
    let mut events = events::of(pipeline, world, &status, &writes.manifests, now);
    events.extend(rebuilds.events);
    events.extend(retention_events);
    Ok(Plan {
        topic_actions,
        deletion_costs: deletion_costs(world, &writes.manifests, scaling.replicas),
        manifests: writes.manifests,
        job_action: rebuilds.index.action,
        reembed_action: rebuilds.models.action,
        unwanted_cron_job: retention::unwanted(pipeline, live_retention),
        unwanted_query: query.unwanted,
        dry_run: writes.dry_run,
        outdated: writes.outdated,
        recorded_replicas: scaling.record,
        decision: scaling.decision,
        autoscaler: Some(scaling.memory),
        status,
        events,
    })
}

/// The status to report, without the confirmed settings and the model that workers are told.
fn status(
    pipeline: &IngestionPipeline,
    world: &World,
    before: &IngestionPipelineStatus,
    verdicts: Verdicts,
    scaling: ScalingStatus,
    now: Timestamp,
) -> IngestionPipelineStatus {
    let (drifted_collection_count, drifted_collections) = match &world.indexes {
        Ok(report) => vector_store::drifted(report),
        Err(_) => (
            before.drifted_collection_count,
            before.drifted_collections.clone(),
        ),
    };
    IngestionPipelineStatus {
        observed_generation: pipeline.metadata.generation,
        conditions: conditions::update(
            &before.conditions,
            all_conditions(pipeline, before, verdicts),
            pipeline.metadata.generation,
            now,
        ),
        selector: Some(resources::selector_text(&pipeline.name_any())),
        lag: world.lag(),
        scaling: Some(scaling),
        model: model::status(before.model.as_ref(), world),
        pages: pages::status(before.pages, &world.counts.values()),
        drifted_collection_count,
        drifted_collections,
        ..workers_status(world)
    }
}

/// What the workers keep until they are replaced for another reason.
#[derive(Clone, Copy, Default)]
struct Kept<'a> {
    /// The termination grace period depends on the longest work measured. It changes only when there
    /// are no pods, or when they are replaced.
    grace_seconds: Option<u32>,
    /// The image of an earlier version of the operator, while a worker is ready.
    image: Option<&'a str>,
}

/// The objects of the pipeline.
fn workload(
    pipeline: &IngestionPipeline,
    world: &World,
    scaling: &Scaling,
    default_image: &str,
) -> Result<Workload, ConfigError> {
    let secrets_hash = world
        .secrets_hash
        .clone()
        .unwrap_or_else(|| mounted_secrets_hash(world));
    let build = |kept: Kept<'_>| {
        let inputs = Inputs {
            default_image: kept.image.unwrap_or(default_image),
            secrets_hash: &secrets_hash,
            replicas: scaling.replicas,
            grace_seconds: kept
                .grace_seconds
                .unwrap_or_else(|| scaling::grace_seconds(&scaling.status)),
        };
        resources::build(pipeline, &inputs)
    };
    let kept = Kept {
        grace_seconds: live_grace(world).filter(|_| !world.pods.is_empty()),
        image: upgrade::kept_image(pipeline, world),
    };
    let is_live = |workload: &Workload| {
        manifests::has_template(&workload.deployment, &world.live, &world.past_writes)
    };
    let unchanged = build(kept)?;
    let is_new = kept.grace_seconds.is_none() && kept.image.is_none();
    if is_new || is_live(&unchanged) {
        return Ok(unchanged);
    }
    // A restarted operator does not know yet what a policy made of the image.
    let live = world.live.deployment.as_deref();
    if kept.image.is_some() {
        let image = live.and_then(resources::image);
        if is_live(&build(Kept { image, ..kept })?) {
            return Ok(unchanged);
        }
    }
    build(Kept::default())
}

fn live_grace(world: &World) -> Option<u32> {
    let deployment = world.live.deployment.as_ref()?;
    let pod = deployment.spec.as_ref()?.template.spec.as_ref()?;
    u32::try_from(pod.termination_grace_period_seconds?).ok()
}

/// The pods to delete first, when the Deployment is about to be scaled down.
fn deletion_costs(
    world: &World,
    manifests: &[Manifest],
    replicas: i32,
) -> Vec<(String, &'static str)> {
    let live = || world.live.deployment.as_ref()?.spec.as_ref()?.replicas;
    let removed = usize::try_from(live().unwrap_or(0) - replicas).unwrap_or(0);
    let is_applied = manifests
        .iter()
        .any(|manifest| manifest.kind == Kind::Deployment);
    if removed == 0 || !is_applied {
        return Vec::new();
    }
    fleet::deletion_costs(&world.pods, &world.counts, removed)
}

/// The hash on the current pods: an unreadable Secret must not restart them.
fn mounted_secrets_hash(world: &World) -> String {
    let template = || {
        let deployment = world.live.deployment.as_ref()?;
        let metadata = deployment.spec.as_ref()?.template.metadata.as_ref()?;
        metadata
            .annotations
            .as_ref()?
            .get(resources::SECRETS_HASH)
            .cloned()
    };
    template().unwrap_or_default()
}

struct Verdicts {
    topic: Verdict,
    vector_store: Verdict,
    workers: Verdict,
    scaling: Verdict,
    /// `None` without `spec.query`.
    query: Option<Verdict>,
}

/// All conditions in their order: Ready, its parts, `QueryReady`, and the two of kstatus while they are
/// true.
fn all_conditions(
    pipeline: &IngestionPipeline,
    before: &IngestionPipelineStatus,
    verdicts: Verdicts,
) -> Vec<(&'static str, Verdict)> {
    let Verdicts {
        topic,
        vector_store,
        workers,
        scaling,
        query,
    } = verdicts;
    // `Ready` is about ingestion, so replicas that start or fail do not change it. What only an edit
    // can cure is not hidden from those who apply the object.
    let blocked = query.as_ref();
    let blocked = blocked.filter(|query| query.progress() == Some(Progress::Stalled));
    let parts = [&topic, &vector_store, &workers];
    let parts: Vec<&Verdict> = parts.into_iter().chain(blocked).collect();
    let ready = ready(pipeline, before, &parts);

    let kstatus = ready.progress().map(|progress| {
        let type_ = match progress {
            Progress::InProgress => RECONCILING,
            Progress::Stalled => STALLED,
        };
        (type_, Verdict::yes(ready.reason, ready.message.clone()))
    });

    let mut all = vec![
        (READY, ready),
        (TOPIC_READY, topic),
        (VECTOR_STORE_READY, vector_store),
        (WORKERS_AVAILABLE, workers),
        (SCALING, scaling),
    ];
    all.extend(query.map(|query| (QUERY_READY, query)));
    all.extend(kstatus);
    all
}

/// True when every part is, else the verdict of the first part that is not.
fn ready(
    pipeline: &IngestionPipeline,
    before: &IngestionPipelineStatus,
    parts: &[&Verdict],
) -> Verdict {
    // A pipeline that was ready stays ready while workers start for new work.
    let was_ready = conditions::find(&before.conditions, READY).is_some_and(|condition| {
        condition.status == "True" && condition.observed_generation == pipeline.metadata.generation
    });
    // What only an edit can cure comes first: the rest may be its consequence.
    let stalled = parts
        .iter()
        .find(|part| part.progress() == Some(Progress::Stalled));
    let not_ready = stalled.or_else(|| {
        parts.iter().find(|part| {
            let excused = was_ready && part.reason == Reason::WorkersStarting;
            !part.is_true() && !excused
        })
    });
    let mut verdict = match not_ready {
        Some(part) => Verdict {
            status: Status::False,
            ..(*part).clone()
        },
        None => Verdict::yes(
            Reason::PipelineReady,
            "Topics, Milvus and workers are ready.",
        ),
    };
    if pipeline.spec.paused {
        verdict.reason = Reason::Paused;
        verdict.message = format!(
            "The pipeline is paused; the operator changes nothing. {}",
            verdict.message
        );
    }
    verdict
}

fn workers_status(world: &World) -> IngestionPipelineStatus {
    let counts = world
        .live
        .deployment
        .as_ref()
        .and_then(|live| live.status.clone());
    let counts = counts.unwrap_or_default();
    IngestionPipelineStatus {
        replicas: Some(counts.replicas.unwrap_or(0)),
        ready_replicas: Some(counts.ready_replicas.unwrap_or(0)),
        ..IngestionPipelineStatus::default()
    }
}

#[cfg(test)]
mod tests;
