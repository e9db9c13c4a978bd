//! The pods that answer questions: how many, with which objects, and whether they answer. Pure.

use jiff::Timestamp;
use k8s_openapi::{api::core::v1::ContainerStatus, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::ResourceExt;
use layra_autoscaler::requests::{Choice, FALL, RISE, RequestPolicy, choose};
use layra_crds::{
    IngestionPipeline, IngestionPipelineStatus, ModelReference, QuerySpec, QueryStatus,
};

use super::{
    conditions::Verdict,
    configuration, model,
    workers::{failed_exit, last_lines, replica_failure, waiting},
};
use crate::{
    reconcile::{pods::WorkerPod, reason::Reason, world::World},
    resources::{
        self, Kind, MODEL_CHECKSUM, Query, QueryInputs, is_foreign, object_name, query_name,
        query_service_name,
    },
};

/// What the status says about a fixed number.
const FIXED: &str = "The number of replicas is fixed.";

/// What the plan depends on.
#[derive(Clone, Copy)]
pub(super) struct Situation<'a> {
    pub(super) pipeline: &'a IngestionPipeline,
    pub(super) world: &'a World,
    pub(super) before: &'a IngestionPipelineStatus,
    /// The pipeline is paused or waits for an edit: nothing is created, changed or removed.
    pub(super) is_held: bool,
    /// The checkpoint that all workers load.
    pub(super) model: Option<&'a ModelReference>,
    pub(super) default_image: &'a str,
    pub(super) now: Timestamp,
}

/// An object that is no longer wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unwanted {
    pub(crate) kind: Kind,
    pub(crate) name: String,
    pub(crate) uid: String,
}

/// What becomes of the pods that answer questions.
pub(super) struct QueryPlan {
    /// The objects to have. `None`: none are wanted, or those that exist stay as they are.
    pub(super) objects: Option<Query>,
    pub(super) unwanted: Vec<Unwanted>,
    /// `None` without `spec.query`.
    pub(super) status: Option<QueryStatus>,
}

pub(super) fn plan(situation: &Situation<'_>) -> QueryPlan {
    let Situation {
        pipeline, is_held, ..
    } = *situation;
    let Some(spec) = &pipeline.spec.query else {
        return QueryPlan {
            objects: None,
            unwanted: unwanted(situation, None),
            status: None,
        };
    };
    let (replicas, message) = replicas(situation, spec);
    let objects = || {
        let secrets_hash = secrets_hash(situation.world);
        let model_checksum = model_checksum(situation);
        let inputs = QueryInputs {
            default_image: situation.default_image,
            secrets_hash: &secrets_hash,
            replicas,
            model_checksum: model_checksum.as_deref(),
        };
        resources::query(pipeline, &inputs)
    };
    let may_exist = !is_held && !has_name_of_workers(pipeline, spec);
    QueryPlan {
        objects: may_exist.then(objects).flatten(),
        unwanted: unwanted(situation, Some(spec)),
        status: Some(QueryStatus {
            desired_replicas: replicas,
            ready_replicas: ready(situation.world),
            address: address(pipeline, spec),
            message,
        }),
    }
}

/// The verdict on the pods that answer questions. `None` without `spec.query`.
pub(super) fn verdict(
    situation: &Situation<'_>,
    plan: &QueryPlan,
    refusal: Option<Verdict>,
) -> Option<Verdict> {
    let Situation {
        pipeline, world, ..
    } = *situation;
    let (spec, status) = pipeline.spec.query.as_ref().zip(plan.status.as_ref())?;
    if has_name_of_workers(pipeline, spec) {
        let name = query_service_name(&pipeline.name_any(), spec);
        return Some(Verdict::no(
            Reason::NameTaken,
            format!(
                "The Service {name} is the one with the workers' metrics. Give query.service.name another value."
            ),
        ));
    }
    if refusal.is_some() {
        return refusal;
    }
    let (ready, desired) = (status.ready_replicas, status.desired_replicas);
    let has_service = current_service(world, pipeline, spec).is_some();
    if ready > 0 && has_service {
        return Some(match other_model(situation) {
            Some(message) => Verdict::no(Reason::ModelDiffers, message),
            None => Verdict::yes(
                Reason::QueryReplicasReady,
                format!(
                    "{ready} of {desired} replicas are ready at {}.",
                    status.address
                ),
            ),
        });
    }
    let problem = world.secrets.iter().find_map(|it| it.problem.as_ref());
    let cause = problem.map(|problem| problem.message.clone());
    Some(match cause.or_else(|| trouble(world)) {
        Some(cause) => Verdict::no(
            Reason::QueryUnavailable,
            format!("No replica of {desired} is ready: {cause}"),
        ),
        None => Verdict::no(
            Reason::QueryStarting,
            format!("No replica of {desired} is ready yet."),
        ),
    })
}

/// The number of replicas, and why.
fn replicas(situation: &Situation<'_>, spec: &QuerySpec) -> (i32, String) {
    let world = situation.world;
    let live = || {
        let deployment = world.live.query.deployment.as_ref()?;
        deployment.spec.as_ref()?.replicas
    };
    let (fewest, most) = spec.bounds();
    let before = situation.before.query.as_ref();
    if situation.is_held {
        let message = before.map(|before| before.message.clone());
        return (live().unwrap_or(0), message.unwrap_or_default());
    }
    if !spec.follows_requests() {
        return (fewest, FIXED.to_owned());
    }
    let count = |number: i32| u32::try_from(number).unwrap_or(0);
    let policy = RequestPolicy {
        fewest: count(fewest),
        most: count(most),
        per_replica: spec.requests_per_replica,
    };
    let current = live().unwrap_or(fewest);
    let choice = choose(&world.requests, policy, count(current), situation.now);
    let replicas = i32::try_from(choice.replicas()).unwrap_or(i32::MAX);
    let is_said = |before: &&QueryStatus| {
        let is_reason = !before.message.is_empty() && before.message != FIXED;
        is_reason && before.desired_replicas == replicas
    };
    let said = before.filter(is_said);
    let of_each = format!("one replica is for {}", policy.per_replica);
    let limit = if replicas == most {
        " query.maxReplicas allows no more."
    } else {
        ""
    };
    let message = match (choice, said) {
        (Choice::More(_, requests), _) => format!(
            "Raised from {current} to {replicas}: at least {requests} requests were in flight for {} s, and {of_each}.{limit}",
            RISE.as_secs()
        ),
        (Choice::Fewer(_, requests), _) => format!(
            "Lowered from {current} to {replicas}: at most {requests} requests were in flight for {} s, and {of_each}.",
            FALL.as_secs()
        ),
        (Choice::Bounded(_), _) => {
            format!("Set from {current} to {replicas} by query.minReplicas and query.maxReplicas.")
        }
        (Choice::Kept(_), Some(said)) => said.message.clone(),
        (Choice::Kept(_), None) => {
            format!("The requests in flight are no reason to change it: {of_each}.")
        }
    };
    (replicas, message)
}

/// `NAME-worker` is the Service of the workers' metrics.
fn has_name_of_workers(pipeline: &IngestionPipeline, spec: &QuerySpec) -> bool {
    let name = pipeline.name_any();
    query_service_name(&name, spec) == object_name(&name)
}

fn address(pipeline: &IngestionPipeline, spec: &QuerySpec) -> String {
    format!(
        "{}.{}.svc:{}",
        query_service_name(&pipeline.name_any(), spec),
        pipeline.namespace().unwrap_or_default(),
        spec.service.port
    )
}

fn ready(world: &World) -> i32 {
    let deployment = world.live.query.deployment.as_ref();
    let status = deployment.and_then(|deployment| deployment.status.as_ref());
    status.and_then(|status| status.ready_replicas).unwrap_or(0)
}

fn current_service<'a>(
    world: &'a World,
    pipeline: &IngestionPipeline,
    spec: &QuerySpec,
) -> Option<&'a k8s_openapi::api::core::v1::Service> {
    let name = query_service_name(&pipeline.name_any(), spec);
    let mut services = world.live.query.services.iter();
    services
        .find(|service| service.name_any() == name)
        .map(AsRef::as_ref)
}

/// The objects to remove: all without `spec.query`, else the Service of an earlier name as soon as
/// the new one exists.
fn unwanted(situation: &Situation<'_>, spec: Option<&QuerySpec>) -> Vec<Unwanted> {
    let Situation {
        pipeline, world, ..
    } = *situation;
    if situation.is_held {
        return Vec::new();
    }
    let found = |kind: Kind, metadata: &ObjectMeta| {
        if metadata.deletion_timestamp.is_some() || is_foreign(metadata, pipeline) {
            return None;
        }
        Some(Unwanted {
            kind,
            name: metadata.name.clone()?,
            uid: metadata.uid.clone()?,
        })
    };
    let live = &world.live.query;
    let mut all = Vec::new();
    if spec.is_none() {
        let deployment = live.deployment.iter();
        all.extend(deployment.filter_map(|it| found(Kind::QueryDeployment, &it.metadata)));
        let budget = live.disruption_budget.iter();
        all.extend(budget.filter_map(|it| found(Kind::QueryDisruptionBudget, &it.metadata)));
    }
    let current = spec.map(|spec| current_service(world, pipeline, spec));
    if let Some(None) = current {
        return all;
    }
    let current = current.flatten().map(ResourceExt::name_any);
    let old = live.services.iter();
    let old = old.filter(|service| Some(service.name_any()) != current);
    all.extend(old.filter_map(|it| found(Kind::QueryService, &it.metadata)));
    all
}

/// The hash on the current pods if a Secret cannot be read: it must not restart them.
fn secrets_hash(world: &World) -> String {
    let current = world.secrets_hash.clone();
    current
        .or_else(|| annotation(world, resources::SECRETS_HASH))
        .unwrap_or_default()
}

/// The checkpoint on the pod template. It changes, and replaces the pods, when one of them has loaded
/// another checkpoint than the workers' one.
fn model_checksum(situation: &Situation<'_>) -> Option<String> {
    let current = annotation(situation.world, MODEL_CHECKSUM);
    match situation.model {
        Some(model) if loaded_others(situation, model).next().is_some() => {
            Some(model.checksum.clone())
        }
        _ => current,
    }
}

/// The checksums of other checkpoints that pods have loaded.
fn loaded_others<'a>(
    situation: &'a Situation<'_>,
    model: &'a ModelReference,
) -> impl Iterator<Item = String> + 'a {
    running(situation.world).filter_map(move |pod| {
        let checksum = model::reported(pod)?.model.checksum;
        (checksum != model.checksum).then_some(checksum)
    })
}

/// What to say about pods that have loaded another checkpoint than the workers' one.
fn other_model(situation: &Situation<'_>) -> Option<String> {
    let model = situation.model?;
    let other = loaded_others(situation, model).next()?;
    Some(format!(
        "A replica has loaded the checkpoint {other}, and the pipeline's is {}: questions and pages cannot be compared. The replicas are replaced once. If this stays, restore the files at embedding.model.uri and delete the pods of Deployment {}.",
        model.checksum,
        query_name(&situation.pipeline.name_any())
    ))
}

fn annotation(world: &World, name: &str) -> Option<String> {
    let deployment = world.live.query.deployment.as_ref()?;
    let metadata = deployment.spec.as_ref()?.template.metadata.as_ref()?;
    metadata.annotations.as_ref()?.get(name).cloned()
}

fn running(world: &World) -> impl Iterator<Item = &WorkerPod> {
    let pods = world.query_pods.iter();
    pods.filter(|pod| !pod.terminating && !pod.ended)
}

/// Why no pod gets ready, in the words of Kubernetes or of the process.
fn trouble(world: &World) -> Option<String> {
    let deployment = world.live.query.deployment.as_deref();
    let refused = deployment
        .and_then(replica_failure)
        .map(|why| format!("Kubernetes cannot create the pods: {why}"));
    let mut containers = running(world).flat_map(|pod| &pod.containers);
    let pending = || {
        let mut pods = running(world).filter_map(|pod| pod.unschedulable.as_ref());
        pods.next().map(|pending| pending.message.clone())
    };
    containers
        .find_map(container_trouble)
        .or_else(pending)
        .or(refused)
}

fn container_trouble(container: &ContainerStatus) -> Option<String> {
    if container.ready {
        return None;
    }
    let name = &container.name;
    if let Some((reason, message)) = waiting(container) {
        if reason.contains("Image") {
            return Some(format!("the image {} cannot be pulled.", container.image));
        }
        if reason.ends_with("Error") {
            return Some(format!("container {name}: {reason}: {message}"));
        }
    }
    if let Some(problem) = configuration::problem(container) {
        return Some(problem.message);
    }
    let end = failed_exit(container)?;
    let words = end.message.as_deref().map(last_lines);
    let words = words.filter(|words| !words.is_empty());
    Some(match (end.reason.as_deref(), words) {
        (Some("OOMKilled"), _) => format!("container {name} exceeded its memory limit."),
        (_, Some(words)) => format!("container {name} ended: {words}"),
        (_, None) => format!("container {name} ended with exit code {}.", end.exit_code),
    })
}
