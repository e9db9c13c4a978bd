//! From what was seen to what is to be done. Pure: no I/O, the clock comes in.
//!
//! Read [`plan`] from top to bottom: it is the whole operator in one page.

mod conditions;
mod fleet;
mod manifests;
mod model;
mod notes;
mod scaling;
mod template;
mod topic;
mod vector_store;
mod workers;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use layra_autoscaler::{Decision, Memory};
use layra_crds::{ConfigError, IngestionPipeline, IngestionPipelineStatus};

use super::world::World;
use crate::{
    kafka::{Connection, TopicAction},
    resources::{self, Inputs, Kind, Workload},
};
use conditions::{
    Holds, READY, RECONCILING, SCALING, STALLED, TOPIC_READY, VECTOR_STORE_READY, Verdict,
    WORKERS_AVAILABLE,
};

use template::Template;

pub(crate) use manifests::Manifest;
pub(crate) use notes::{Note, topic_changed};
pub(crate) use template::DryRun;

/// What is to be done.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Changes to Kafka, in order.
    pub(crate) topic_actions: Vec<TopicAction>,
    /// How to reach Kafka for them; `None` while that is not known.
    pub(crate) kafka: Option<Connection>,
    /// Objects that are not yet as they should be; the configuration comes before its readers.
    pub(crate) manifests: Vec<Manifest>,
    /// The Deployment to check by a dry run before the manifests are applied.
    pub(crate) dry_run: Option<DryRun>,
    /// Kinds of objects that are not as they should be, those that wait for a retry included.
    pub(crate) unsettled: Vec<Kind>,
    /// Pods whose place in the order of deletion changes, and their new cost; before the Deployment
    /// asks for fewer.
    pub(crate) deletion_costs: Vec<(String, &'static str)>,
    /// What the autoscaler decided; `None` when it was not asked.
    pub(crate) decision: Option<Decision>,
    /// What the autoscaler is to remember until the next plan.
    pub(crate) autoscaler: Option<Memory>,
    /// What to report.
    pub(crate) status: IngestionPipelineStatus,
    /// What to tell people.
    pub(crate) notes: Vec<Note>,
}

impl Plan {
    /// Whether everything is in order.
    pub(crate) fn is_ready(&self) -> bool {
        conditions::find(&self.status.conditions, READY)
            .is_some_and(|condition| condition.status == "True")
    }
}

/// Decides what is to be done for a pipeline. `memory` is the autoscaler's of the last plan.
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
        .unwrap_or_else(|| mounted_secrets(world));
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
    let unsettled = outdated.iter().map(|manifest| manifest.kind).collect();
    let mut manifests = manifests::without_futile(outdated, &world.past_writes.applied, now);

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
                verdict_of(&before.conditions, WORKERS_AVAILABLE).as_ref(),
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
    let notes = notes::between(&before, &status, world, &manifests, spec.scaling.mode);
    Ok(Plan {
        topic_actions,
        kafka: world.kafka.as_ref().ok().cloned(),
        manifests,
        dry_run,
        unsettled,
        deletion_costs,
        decision: scaling.decision,
        autoscaler: scaling.memory.or_else(|| memory.cloned()),
        status,
        notes,
    })
}

/// The pipeline's objects. The termination grace that follows from the work seen is part of the
/// pods' template: it waits until there are no pods, or until they are replaced anyway.
fn workload<'a>(
    pipeline: &IngestionPipeline,
    world: &World,
    inputs: impl Fn(Option<u32>) -> Inputs<'a>,
) -> Result<Workload, ConfigError> {
    let current = live_grace(world).filter(|_| !world.pods.is_empty());
    let as_it_is = resources::build(pipeline, &inputs(current))?;
    if current.is_none() || manifests::has_template(&as_it_is.deployment, &world.live) {
        return Ok(as_it_is);
    }
    resources::build(pipeline, &inputs(None))
}

fn live_grace(world: &World) -> Option<u32> {
    let deployment = world.live.deployment.as_ref()?;
    let pod = deployment.spec.as_ref()?.template.spec.as_ref()?;
    u32::try_from(pod.termination_grace_period_seconds?).ok()
}

/// Which pods go first, when the Deployment is about to ask for fewer.
fn deletion_costs(
    world: &World,
    manifests: &[Manifest],
    replicas: i32,
) -> Vec<(String, &'static str)> {
    let live = || world.live.deployment.as_ref()?.spec.as_ref()?.replicas;
    let fewer = usize::try_from(live().unwrap_or(0) - replicas).unwrap_or(0);
    let is_applied = manifests
        .iter()
        .any(|manifest| manifest.kind == Kind::Deployment);
    if fewer == 0 || !is_applied {
        return Vec::new();
    }
    fleet::deletion_costs(&world.pods, &world.counts, fewer)
}

/// The hash that the pods have already: a Secret that cannot be read is no reason to restart them.
fn mounted_secrets(world: &World) -> String {
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

/// All conditions in their order: the summary, its parts, and the two of kstatus while they hold.
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

    let in_progress = [
        topic::CREATING,
        topic::INCREASING,
        workers::ROLLOUT,
        workers::STARTING,
    ];
    let hopeless = [
        topic::DECREASE_REFUSED,
        topic::REPLICATION_TOO_HIGH,
        template::REFUSED,
    ];
    let is = |words: &[&str]| !ready.is_true() && words.contains(&ready.reason.as_str());
    let reconciling = is(&in_progress).then(|| {
        (
            RECONCILING,
            Verdict::yes(&ready.reason, ready.message.clone()),
        )
    });
    let stalled =
        is(&hopeless).then(|| (STALLED, Verdict::yes(&ready.reason, ready.message.clone())));

    let mut all = vec![
        (READY, ready),
        (TOPIC_READY, topic),
        (VECTOR_STORE_READY, vector_store),
        (WORKERS_AVAILABLE, workers),
        (SCALING, scaling),
    ];
    all.extend(reconciling);
    all.extend(stalled);
    all
}

/// True when every part is; else what is wrong with the first that is not.
fn ready(
    pipeline: &IngestionPipeline,
    before: &IngestionPipelineStatus,
    parts: [&Verdict; 3],
) -> Verdict {
    // Workers that start because there is work again are no fault of a pipeline that was ready.
    let was_ready = conditions::find(&before.conditions, READY).is_some_and(|condition| {
        condition.status == "True" && condition.observed_generation == pipeline.metadata.generation
    });
    let wrong = parts.into_iter().find(|part| {
        let excused = was_ready && part.reason == workers::STARTING;
        !part.is_true() && !excused
    });
    let mut verdict = match wrong {
        Some(part) => Verdict {
            holds: Holds::False,
            ..part.clone()
        },
        None => Verdict::yes("PipelineReady", "Topics, Milvus and workers are in order."),
    };
    if pipeline.spec.paused {
        "Paused".clone_into(&mut verdict.reason);
        verdict.message = format!("Paused, nothing is changed. {}", verdict.message);
    }
    verdict
}

fn verdict_of(before: &[Condition], type_: &str) -> Option<Verdict> {
    let condition = conditions::find(before, type_)?;
    let holds = match condition.status.as_str() {
        "True" => Holds::True,
        "False" => Holds::False,
        _ => Holds::Unknown,
    };
    Some(Verdict {
        holds,
        reason: condition.reason.clone(),
        message: condition.message.clone(),
    })
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
