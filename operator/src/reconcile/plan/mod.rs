//! From what was seen to what is to be done. Pure: no I/O, the clock comes in.
//!
//! Read [`plan`] from top to bottom: it is the whole operator in one page.

mod conditions;
mod manifests;
mod model;
mod notes;
mod topic;
mod vector_store;
mod workers;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt;
use layra_crds::{
    ConfigError, IngestionPipeline, IngestionPipelineStatus, ScalingMode, ScalingStatus,
};

use super::world::World;
use crate::{
    autoscale::{self, Decision, History, Limit, Observation, Policy},
    kafka::TopicAction,
    resources::{self, Inputs},
};
use conditions::{
    Holds, READY, RECONCILING, SCALING, STALLED, TOPIC_READY, VECTOR_STORE_READY, Verdict,
    WORKERS_AVAILABLE,
};

pub(crate) use manifests::{Kind, Manifest};
pub(crate) use notes::{Note, topic_changed};

/// What is to be done.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Changes to Kafka, in order.
    pub(crate) topic_actions: Vec<TopicAction>,
    /// Objects that are not yet as they should be; the configuration comes before its readers.
    pub(crate) manifests: Vec<Manifest>,
    /// Kinds of objects that are not as they should be, those that wait for a retry included.
    pub(crate) unsettled: Vec<Kind>,
    /// What to report.
    pub(crate) status: IngestionPipelineStatus,
    /// What to tell people.
    pub(crate) notes: Vec<Note>,
}

/// Decides what is to be done for a pipeline. `history` is the memory of the scaling decisions.
pub(crate) fn plan(
    pipeline: &IngestionPipeline,
    world: &World,
    history: &mut History,
    default_image: &str,
    now: Timestamp,
) -> Result<Plan, ConfigError> {
    let spec = &pipeline.spec;
    let before = pipeline.status.clone().unwrap_or_default();

    let decision = decide(pipeline, world, history, now);
    let secrets_hash = world
        .secrets_hash
        .clone()
        .unwrap_or_else(|| mounted_secrets(world));
    let inputs = Inputs {
        default_image,
        secrets_hash: &secrets_hash,
        replicas: decision.desired,
    };
    let workload = resources::build(pipeline, &inputs)?;
    let template_current = manifests::has_template(&workload.deployment, &world.live);
    let outdated = manifests::outdated(&workload, &world.live);
    let unsettled = outdated.iter().map(|manifest| manifest.kind).collect();
    let mut manifests = manifests::without_futile(outdated, &world.applied, now);

    let (mut topic_actions, topic) = topic::plan(
        &spec.source.kafka,
        &world.topics,
        world.topic_failure.as_ref(),
        now,
    );
    let verdicts = Verdicts {
        vector_store: vector_store::judge(&world.indexes),
        workers: workers::judge(
            spec,
            world,
            decision.desired,
            template_current,
            verdict_of(&before.conditions, WORKERS_AVAILABLE).as_ref(),
        ),
        scaling: scaling(pipeline, world, &decision),
        topic,
    };

    if spec.paused {
        manifests.clear();
        topic_actions.clear();
    }
    let status = IngestionPipelineStatus {
        observed_generation: pipeline.metadata.generation,
        conditions: conditions::update(
            &before.conditions,
            all_conditions(pipeline, &before, verdicts),
            pipeline.metadata.generation,
            now,
        ),
        selector: Some(resources::selector_text(&pipeline.name_any())),
        lag: world.lag.as_ref().ok().copied(),
        scaling: Some(scaling_status(&before, &decision, now)),
        model: model::status(before.model.as_ref(), world),
        drifted_collections: match &world.indexes {
            Ok(report) => report.drifted.clone(),
            Err(_) => before.drifted_collections.clone(),
        },
        ..workers_status(world)
    };
    let notes = notes::between(&before, &status, world, &manifests);
    Ok(Plan {
        topic_actions,
        manifests,
        unsettled,
        status,
        notes,
    })
}

/// How many workers there should be.
fn decide(
    pipeline: &IngestionPipeline,
    world: &World,
    history: &mut History,
    now: Timestamp,
) -> Decision {
    let scaling = &pipeline.spec.scaling;
    let live = world
        .live
        .deployment
        .as_ref()
        .and_then(|live| live.spec.as_ref()?.replicas);
    if pipeline.spec.paused {
        let desired = live.unwrap_or(0);
        let message = "Paused: the number of workers stays.".to_owned();
        return Decision {
            desired,
            message,
            limit: None,
        };
    }
    if scaling.mode == ScalingMode::Manual {
        let desired = scaling.replicas.unwrap_or(scaling.min_replicas);
        let message = "scaling.mode is Manual: scaling.replicas holds.".to_owned();
        return Decision {
            desired,
            message,
            limit: None,
        };
    }
    let observation = Observation {
        lag: world.lag.as_ref().ok().copied(),
        current: live.unwrap_or(scaling.min_replicas),
        partitions: world
            .topics
            .as_ref()
            .ok()
            .and_then(super::world::Topics::partitions),
    };
    autoscale::decide(&observation, &Policy::from(scaling), history, now)
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

fn scaling(pipeline: &IngestionPipeline, world: &World, decision: &Decision) -> Verdict {
    if pipeline.spec.paused {
        return Verdict::no(
            "Paused",
            "The number of workers stays while the pipeline is paused.",
        );
    }
    if pipeline.spec.scaling.mode == ScalingMode::Manual {
        return Verdict::yes(
            "Manual",
            "scaling.replicas says how many workers there are.",
        );
    }
    if let Err(problem) = &world.lag {
        let message = format!(
            "The backlog is unknown, workers stay as they are: {}",
            problem.message
        );
        return Verdict::unknown(problem.reason, message);
    }
    match decision.limit {
        Some(Limit::MaxReplicas) => Verdict::yes(
            "AtMaxReplicas",
            "The backlog asks for more workers than maxReplicas.",
        ),
        Some(Limit::Partitions) => Verdict::yes(
            "AtPartitions",
            "The backlog asks for more workers than there are partitions.",
        ),
        _ => Verdict::yes(
            "FollowingBacklog",
            "The number of workers follows the backlog.",
        ),
    }
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
    let hopeless = [topic::DECREASE_REFUSED, topic::REPLICATION_TOO_HIGH];
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

fn scaling_status(
    before: &IngestionPipelineStatus,
    decision: &Decision,
    now: Timestamp,
) -> ScalingStatus {
    let last = before.scaling.as_ref();
    let unchanged = last.filter(|last| last.desired_replicas == decision.desired);
    let since = match unchanged {
        Some(last) => last.last_scale_time.clone(),
        None => Timestamp::from_second(now.as_second()).ok().map(Time),
    };
    ScalingStatus {
        desired_replicas: decision.desired,
        message: decision.message.clone(),
        last_scale_time: since,
    }
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
