//! Plans the changes that lead from the observed state to the spec. Pure: no I/O, and the time is an
//! argument.
//!
//! Read [`plan`] from top to bottom: it is the whole operator on one page.

mod conditions;
mod events;
mod fleet;
mod manifests;
mod model;
mod scaling;
mod template;
mod topic;
mod vector_store;
mod workers;

use jiff::Timestamp;
use kube::ResourceExt;
use layra_autoscaler::{Decision, Memory};
use layra_crds::{
    ConfigError, IngestionPipeline, IngestionPipelineStatus,
    condition_types::{
        READY, RECONCILING, SCALING, STALLED, TOPIC_READY, VECTOR_STORE_READY, WORKERS_AVAILABLE,
    },
};

use super::{
    reason::{Progress, Reason},
    world::World,
};
use crate::{
    kafka::{Connection, TopicAction},
    resources::{self, Inputs, Kind, Workload},
};
use conditions::{Status, Verdict};

use template::Template;

pub(crate) use events::{PipelineEvent, topic_changed};
pub(crate) use manifests::Manifest;
pub(crate) use template::DryRun;

/// The changes to make and the state to report.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Changes to Kafka, in order.
    pub(crate) topic_actions: Vec<TopicAction>,
    /// The connection for them; `None` while the Kafka Secret cannot be used.
    pub(crate) kafka: Option<Connection>,
    /// Objects to apply, in order: the ConfigMap comes before the Deployment that reads it.
    pub(crate) manifests: Vec<Manifest>,
    /// The Deployment to check by a dry run before the manifests are applied.
    pub(crate) dry_run: Option<DryRun>,
    /// Kinds of objects that differ from the spec, including those whose next write is not due yet.
    pub(crate) outdated: Vec<Kind>,
    /// Pods whose deletion cost changes, with the new cost. Set before the Deployment is scaled
    /// down.
    pub(crate) deletion_costs: Vec<(String, &'static str)>,
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

    let scaling = scaling::plan(pipeline, world, memory, now);
    let secrets_hash = world
        .secrets_hash
        .clone()
        .unwrap_or_else(|| mounted_secrets_hash(world));
    let mut workload = workload(pipeline, world, |grace_seconds| Inputs {
        default_image,
        secrets_hash: &secrets_hash,
        replicas: scaling.replicas,
        grace_seconds: grace_seconds.unwrap_or_else(|| scaling::grace_seconds(&scaling.status)),
    })?;
    let template_current = manifests::has_template(&workload.deployment, &world.live);
    let template = Template::judge(
        &workload,
        world,
        template_current,
        &before.conditions,
        pipeline.metadata.generation,
        now,
    );
    if template.refusal.is_some() {
        workload.deployment = template::with_live_template(workload.deployment, &world.live);
    }
    let outdated = manifests::outdated(&workload, &world.live);
    let outdated = template.without_refused(outdated, &world.live, scaling.replicas);
    let outdated_kinds = outdated.iter().map(|manifest| manifest.kind).collect();
    let mut manifests = manifests::without_repeats(outdated, &world.past_writes.applied, now);

    let (mut topic_actions, topic) = topic::plan(
        &spec.source.kafka,
        &world.topics,
        world.past_writes.topic_failure.as_ref(),
        now,
    );
    let verdicts = Verdicts {
        vector_store: vector_store::judge(&world.indexes),
        workers: template.refusal.unwrap_or_else(|| {
            workers::judge(
                spec,
                world,
                scaling.replicas,
                template_current,
                conditions::find(&before.conditions, WORKERS_AVAILABLE).and_then(Verdict::of),
            )
        }),
        scaling: scaling.verdict,
        topic,
    };

    let mut dry_run = template.dry_run;
    if spec.paused {
        manifests.clear();
        topic_actions.clear();
        dry_run = None;
    }
    let deletion_costs = deletion_costs(world, &manifests, scaling.replicas);
    let status = IngestionPipelineStatus {
        observed_generation: pipeline.metadata.generation,
        conditions: conditions::update(
            &before.conditions,
            all_conditions(pipeline, &before, verdicts),
            pipeline.metadata.generation,
            now,
        ),
        selector: Some(resources::selector_text(&pipeline.name_any())),
        lag: world.lag(),
        scaling: Some(scaling.status),
        model: model::status(before.model.as_ref(), world),
        drifted_collections: match &world.indexes {
            Ok(report) => report.drifted.clone(),
            Err(_) => before.drifted_collections.clone(),
        },
        ..workers_status(world)
    };
    let events = events::between(&before, &status, world, &manifests, spec.scaling.mode);
    Ok(Plan {
        topic_actions,
        kafka: world.kafka.as_ref().ok().cloned(),
        manifests,
        dry_run,
        outdated: outdated_kinds,
        deletion_costs,
        decision: scaling.decision,
        autoscaler: Some(scaling.memory),
        status,
        events,
    })
}

/// The objects of the pipeline. The termination grace period depends on the longest work measured,
/// and it is part of the pod template. It changes only when there are no pods, or when they are
/// replaced for another reason.
fn workload<'a>(
    pipeline: &IngestionPipeline,
    world: &World,
    inputs: impl Fn(Option<u32>) -> Inputs<'a>,
) -> Result<Workload, ConfigError> {
    let current = live_grace(world).filter(|_| !world.pods.is_empty());
    let unchanged = resources::build(pipeline, &inputs(current))?;
    if current.is_none() || manifests::has_template(&unchanged.deployment, &world.live) {
        return Ok(unchanged);
    }
    resources::build(pipeline, &inputs(None))
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
}

/// All conditions in their order: Ready, its parts, and the two of kstatus while they are true.
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
    } = verdicts;
    let ready = ready(pipeline, before, [&topic, &vector_store, &workers]);

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
    all.extend(kstatus);
    all
}

/// True when every part is, else the verdict of the first part that is not.
fn ready(
    pipeline: &IngestionPipeline,
    before: &IngestionPipelineStatus,
    parts: [&Verdict; 3],
) -> Verdict {
    // A pipeline that was ready stays ready while workers start for new work.
    let was_ready = conditions::find(&before.conditions, READY).is_some_and(|condition| {
        condition.status == "True" && condition.observed_generation == pipeline.metadata.generation
    });
    let not_ready = parts.into_iter().find(|part| {
        let excused = was_ready && part.reason == Reason::WorkersStarting;
        !part.is_true() && !excused
    });
    let mut verdict = match not_ready {
        Some(part) => Verdict {
            status: Status::False,
            ..part.clone()
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
