//! What is written to the API server in a reconcile, and what that and the pods say about the
//! workers. Pure.

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use layra_crds::{
    IngestionPipeline, IngestionPipelineStatus, ModelReference,
    condition_types::{QUERY_READY, WORKERS_AVAILABLE},
};

use super::{
    conditions::{self, Verdict},
    manifests::{self, Comparison, Manifest},
    refusals::{self, Refusals},
    scaling::Scaling,
    stall::Stall,
    template::{DryRun, Template},
    workers::{self, Situation},
};
use crate::{
    reconcile::world::World,
    resources::{Kind, Workload},
};

/// A write that the watch cache does not show after this long was changed back.
const LONGEST_WATCH_DELAY: SignedDuration = SignedDuration::from_secs(10);

/// What the writes depend on.
pub(super) struct Objects<'a> {
    pub(super) pipeline: &'a IngestionPipeline,
    pub(super) world: &'a World,
    pub(super) before: &'a IngestionPipelineStatus,
    pub(super) scaling: &'a Scaling,
    /// What the pipeline waits for.
    pub(super) stall: Option<&'a Stall>,
    /// The live Deployment has the wanted pod template.
    pub(super) template_current: bool,
    /// What to say about workers that keep the image of an earlier version of the operator.
    pub(super) upgrade_held: Option<String>,
    /// The checkpoint that all workers load.
    pub(super) model_reference: Option<&'a ModelReference>,
    pub(super) now: Timestamp,
}

/// The writes, and the verdict on the workers.
pub(super) struct Writes {
    pub(super) manifests: Vec<Manifest>,
    pub(super) dry_run: Option<DryRun>,
    /// Kinds of objects that differ from the spec, including those whose write is not due or futile.
    pub(super) outdated: Vec<Kind>,
    /// The live `ConfigMap` has the wanted configuration, or what another writer makes of it.
    pub(super) config_current: bool,
    pub(super) workers: Verdict,
    /// Why an object of the pods that answer questions is not applied.
    pub(super) query_refusal: Option<Verdict>,
}

impl Objects<'_> {
    pub(super) fn plan(&self, workload: &Workload, template: Template) -> Writes {
        let (world, now) = (self.world, self.now);
        let past = &world.past_writes;
        let generation = self.pipeline.metadata.generation;
        let name = self.pipeline.name_any();
        let compared = manifests::compare_all(workload, &world.live, past);
        let mut differing = compared.outdated.iter();
        let config_current = !differing.any(|manifest| manifest.kind == Kind::ConfigMap);
        let overridden = compared.overridden.iter().map(|(kind, _)| *kind);
        let wanted = template.without_refused(
            compared.outdated.clone(),
            &world.live,
            self.scaling.replicas,
        );
        let kinds = wanted.iter().map(|manifest| manifest.kind);
        let outdated = kinds.chain(overridden).collect();

        let refusals = Refusals::standing(past, &wanted, generation, &name);
        let not_applied = refusals.verdict().or_else(|| {
            let before = &self.before.conditions;
            refusals::verdict_before(past, &wanted, before, generation, WORKERS_AVAILABLE)
        });
        let query_refusal = refusals.query_verdict(&wanted).or_else(|| {
            let before = &self.before.conditions;
            refusals::verdict_before(past, &wanted, before, generation, QUERY_READY)
        });
        let stall = self.stall.map(|stall| stall.verdict.clone());
        let problem = stall.or(template.refusal.clone()).or(not_applied);
        let workers = problem.unwrap_or_else(|| {
            workers::judge(&self.pipeline.spec, world, &self.situation(&compared))
        });
        let replicas = self.scaling.replicas;
        let mut due = refusals.without_refused(wanted, &world.live, replicas, now);
        let mut dry_run = template.dry_run.filter(|_| !refusals.has_no_deployment());
        if self.pipeline.spec.paused || self.stall.is_some_and(Stall::holds_objects) {
            // It is only suspended.
            due.retain(|manifest| manifest.kind == Kind::CronJob);
            dry_run = None;
        }
        Writes {
            manifests: manifests::without_repeats(due, &past.applied, now),
            dry_run,
            outdated,
            config_current,
            workers,
            query_refusal,
        }
    }

    fn situation(&self, compared: &Comparison) -> Situation {
        let mut overridden = compared.overridden.iter();
        let overridden = overridden.find(|(kind, _)| !kind.is_query());
        Situation {
            desired: self.scaling.replicas,
            template_current: self.template_current,
            overridden: overridden.map(|(kind, difference)| {
                format!(
                    "Another writer, such as an admission webhook, changes the {kind:?}: {difference}. The operator accepts it."
                )
            }),
            reverted: self.reverted(&compared.outdated),
            upgrade_held: self.upgrade_held.clone(),
            model_reference: self.model_reference.cloned(),
            previous: conditions::find(&self.before.conditions, WORKERS_AVAILABLE)
                .and_then(Verdict::of),
            startup_seconds: self.startup_seconds(),
            now: self.now,
        }
    }

    /// How long a worker takes to start: learned, or assumed.
    fn startup_seconds(&self) -> f64 {
        let decision = self.scaling.decision.as_ref();
        let kept = self.scaling.status.learned.as_ref();
        decision
            .map(|decision| decision.learned.startup_seconds)
            .or(kept.map(|learned| learned.startup_seconds))
            .unwrap_or(0.0)
    }

    /// What another client changed back in the pod template: the last write was a while ago, and an
    /// equal one is due.
    fn reverted(&self, outdated: &[Manifest]) -> Option<String> {
        let manifest = outdated
            .iter()
            .find(|manifest| manifest.kind == Kind::Deployment)?;
        let past = &self.world.past_writes;
        let mut applied = past.applied.iter();
        let last = applied.find(|applied| applied.write == manifest.write)?;
        if self.now.duration_since(last.at) < LONGEST_WATCH_DELAY {
            return None;
        }
        let live = self.world.live.deployment.as_deref()?;
        let difference = manifests::template_difference(manifest, live)?;
        Some(format!(
            "Another client changes the Deployment back each time: {difference}. Stop it, or make its change in spec.worker."
        ))
    }
}
