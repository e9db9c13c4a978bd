//! Objects that could not be applied: the API server refused them, the request failed, or their name
//! is taken. Pure.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use layra_crds::condition_types::QUERY_READY;

use super::{
    conditions::{self, Verdict},
    manifests::{self, Manifest},
    template::sentence,
};
use crate::{
    reconcile::{
        reason::Reason,
        world::{Live, PastWrites, Refusal, RefusalCause, World},
    },
    resources::{Kind, Workload, name_of},
};

/// The same object is tried again after this long: a policy may have changed.
const RETRY_REFUSED: SignedDuration = SignedDuration::from_mins(1);
/// A name is looked up again after this long, which costs one small read.
const RETRY_TAKEN: SignedDuration = SignedDuration::from_secs(15);
/// A request that fails is reported after this many attempts, which takes a few seconds.
const ATTEMPTS_BEFORE_REPORT: u32 = 3;

/// The refusals that still matter to a pipeline.
pub(super) struct Refusals<'a> {
    standing: Vec<&'a Refusal>,
    pipeline: &'a str,
}

impl<'a> Refusals<'a> {
    /// Those of objects that are still to be applied, for this generation or just as before.
    pub(super) fn standing(
        past: &'a PastWrites,
        outdated: &[Manifest],
        generation: Option<i64>,
        pipeline: &'a str,
    ) -> Self {
        let stands = |refusal: &&Refusal| {
            outdated.iter().any(|manifest| {
                manifest.kind == refusal.kind
                    && (refusal.generation == generation || refusal.hash == manifest.write.hash)
            })
        };
        Self {
            standing: past.refusals.iter().filter(stands).collect(),
            pipeline,
        }
    }

    /// Drops the writes that were refused just before. While the ConfigMap is refused, only the
    /// number of workers changes ([`hold_template`]): none gets another pod template, and none is
    /// added without a configuration to read.
    pub(super) fn without_refused(
        &self,
        mut outdated: Vec<Manifest>,
        live: &Live,
        replicas: i32,
        now: Timestamp,
    ) -> Vec<Manifest> {
        let waits = |manifest: &Manifest| {
            self.standing.iter().any(|refusal| {
                let retry = match refusal.cause {
                    RefusalCause::NameTaken => RETRY_TAKEN,
                    RefusalCause::Refused(_) if refusal.hash == manifest.write.hash => {
                        RETRY_REFUSED
                    }
                    RefusalCause::Refused(_) => SignedDuration::ZERO,
                    RefusalCause::Failed(_) => {
                        SignedDuration::from_secs(1 << refusal.attempts.min(6)).min(RETRY_REFUSED)
                    }
                };
                refusal.kind == manifest.kind && now.duration_since(refusal.at) < retry
            })
        };
        let has_other_number = live_replicas(live)
            .is_some_and(|now| replicas < now || replicas > now && live.config_map.is_some());
        let is_held = |manifest: &Manifest| {
            manifest.kind == Kind::Deployment && self.has_config_map() && !has_other_number
        };
        outdated.retain(|manifest| !waits(manifest) && !is_held(manifest));
        outdated
    }

    fn has_config_map(&self) -> bool {
        let mut standing = self.standing.iter();
        standing.any(|refusal| refusal.kind == Kind::ConfigMap)
    }

    /// Whether the Deployment's name belongs to something else, so that a dry run says nothing.
    pub(super) fn has_no_deployment(&self) -> bool {
        self.standing.iter().any(|refusal| {
            refusal.kind == Kind::Deployment && refusal.cause == RefusalCause::NameTaken
        })
    }

    /// The verdict on the workers, if an object cannot be applied.
    pub(super) fn verdict(&self) -> Option<Verdict> {
        let of_workers = self.standing.iter().filter(|it| !it.kind.is_query());
        let mut verdicts = of_workers
            .filter_map(|refusal| verdict_on(refusal, &name_of(refusal.kind, self.pipeline)));
        verdicts.next()
    }

    /// The verdict on the pods that answer questions, if an object of theirs cannot be applied.
    pub(super) fn query_verdict(&self, outdated: &[Manifest]) -> Option<Verdict> {
        let of_query = self.standing.iter().filter(|it| it.kind.is_query());
        let mut verdicts = of_query.filter_map(|refusal| {
            let manifest = outdated.iter().find(|it| it.kind == refusal.kind)?;
            verdict_on(refusal, &manifest.name())
        });
        verdicts.next()
    }
}

fn verdict_on(refusal: &Refusal, name: &str) -> Option<Verdict> {
    let object = format!("{} {name}", refusal.kind.word());
    let named = match refusal.kind {
        Kind::QueryService => "query.service",
        _ => "the pipeline",
    };
    match &refusal.cause {
        RefusalCause::NameTaken => Some(Verdict::no(
            Reason::NameTaken,
            format!(
                "{object} exists and does not belong to this pipeline, so the operator leaves it alone. Delete or rename it, or give {named} another name."
            ),
        )),
        RefusalCause::Refused(words) => Some(Verdict::no(
            Reason::ApplyRefused,
            format!(
                "The API server refuses {object}: {} Correct the field that it names, or the pipeline's name.",
                sentence(words)
            ),
        )),
        RefusalCause::Failed(words) if refusal.attempts >= ATTEMPTS_BEFORE_REPORT => {
            Some(Verdict::no(
                Reason::ApplyFailed,
                format!(
                    "{object} cannot be applied: {} The operator retries.",
                    sentence(words)
                ),
            ))
        }
        RefusalCause::Failed(_) => None,
    }
}

/// Whether the workers' configuration could not be applied, so that they keep their pod template:
/// the hash on it would belong to a configuration that no pod can read.
pub(super) fn hold_template(workload: &Workload, world: &World, generation: Option<i64>) -> bool {
    let past = &world.past_writes;
    if !past.refusals.iter().any(|it| it.kind == Kind::ConfigMap) {
        return false;
    }
    let outdated = manifests::compare_all(workload, &world.live, past).outdated;
    Refusals::standing(past, &outdated, generation, "").has_config_map()
}

fn live_replicas(live: &Live) -> Option<i32> {
    live.deployment.as_ref()?.spec.as_ref()?.replicas
}

/// A restarted operator does not know of earlier writes. Until it has repeated them, the condition of
/// this type and the same generation holds.
pub(super) fn verdict_before(
    past: &PastWrites,
    outdated: &[Manifest],
    before: &[Condition],
    generation: Option<i64>,
    type_: &str,
) -> Option<Verdict> {
    let is_untried = |manifest: &&Manifest| {
        if manifest.kind.is_query() != (type_ == QUERY_READY) {
            return false;
        }
        let applied = past.applied.iter().map(|applied| applied.write.kind);
        let refused = past.refusals.iter().map(|refusal| refusal.kind);
        !applied.chain(refused).any(|kind| kind == manifest.kind)
    };
    let condition = conditions::find(before, type_)?;
    if condition.observed_generation != generation {
        return None;
    }
    let mut untried = outdated.iter().filter(is_untried);
    Verdict::of(condition).filter(|verdict| match verdict.reason {
        Reason::NameTaken | Reason::ApplyRefused | Reason::ApplyFailed => untried.next().is_some(),
        // What another writer makes of the pod template.
        Reason::ChangedByOthers => untried.any(|manifest| manifest.kind == Kind::Deployment),
        _ => false,
    })
}
