//! The objects to apply: those that are absent, that the operator would now write differently, or
//! that another client changed. Pure.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::Deployment;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    reconcile::world::{Applied, Live, Write},
    resources::{APPLIED_HASH, Kind, Workload, hash_of, is_applied},
};

/// A write that had no effect is repeated after this long.
const REPEAT_AFTER: SignedDuration = SignedDuration::from_mins(1);

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Manifest {
    pub(crate) kind: Kind,
    pub(crate) body: Value,
    /// Identifies the write.
    pub(crate) write: Write,
}

/// The objects that are absent or differ. Fields that other writers added are left alone.
pub(super) fn outdated(workload: &Workload, live: &Live) -> Vec<Manifest> {
    [
        compare(
            Kind::ConfigMap,
            &workload.config_map,
            live.config_map.as_deref(),
        ),
        compare(Kind::Service, &workload.service, live.service.as_deref()),
        compare(
            Kind::PodDisruptionBudget,
            &workload.disruption_budget,
            live.disruption_budget.as_deref(),
        ),
        compare(
            Kind::Deployment,
            &workload.deployment,
            live.deployment.as_deref(),
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Whether the live Deployment has the wanted pod template.
pub(super) fn has_template(wanted: &Deployment, live: &Live) -> bool {
    let template = |deployment: &Deployment| value(&deployment.spec.as_ref().map(|s| &s.template));
    live.deployment
        .as_deref()
        .is_some_and(|live| is_applied(&template(wanted), &template(live)))
}

/// Whether applying the manifest replaces the pods.
pub(super) fn changes_template(manifest: &Manifest, live: &Deployment) -> bool {
    let template = value(&live.spec.as_ref().map(|spec| &spec.template));
    !is_applied(&manifest.body["spec"]["template"], &template)
}

/// Drops the writes that were made just before and had no effect: the watch cache has not seen them
/// yet, or another writer, such as an admission webhook, undoes them. Those are repeated, but rarely.
pub(super) fn without_repeats(
    outdated: Vec<Manifest>,
    applied: &[Applied],
    now: Timestamp,
) -> Vec<Manifest> {
    let is_repeat = |manifest: &Manifest| {
        applied.iter().any(|applied| {
            applied.write == manifest.write && now.duration_since(applied.at) < REPEAT_AFTER
        })
    };
    outdated
        .into_iter()
        .filter(|manifest| !is_repeat(manifest))
        .collect()
}

fn compare<K: Serialize>(kind: Kind, wanted: &K, live: Option<&K>) -> Option<Manifest> {
    let mut body = value(wanted);
    // The hash detects what the comparison cannot: a field that is no longer part of the object.
    let hash = hash_of(&body);
    body["metadata"]["annotations"][APPLIED_HASH] = json!(hash);
    let current = live.map(|live| value(live));
    if current
        .as_ref()
        .is_some_and(|current| is_applied(&body, current))
    {
        return None;
    }
    let onto = current.map(|current| {
        let metadata = &current["metadata"];
        hash_of(&[
            &current["spec"],
            &current["data"],
            &metadata["labels"],
            &metadata["annotations"],
        ])
    });
    Some(Manifest {
        kind,
        body,
        write: Write { kind, hash, onto },
    })
}

fn value(object: &impl Serialize) -> Value {
    // Kubernetes objects have text keys and finite numbers only.
    serde_json::to_value(object).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        fixtures,
        resources::{self, Inputs},
    };

    fn workload(replicas: i32) -> Workload {
        let inputs = Inputs {
            default_image: "worker:1",
            secrets_hash: "abc",
            replicas,
            grace_seconds: 120,
        };
        resources::build(&fixtures::pipeline(), &inputs).unwrap()
    }

    fn object<K: serde::de::DeserializeOwned>(body: Value) -> Arc<K> {
        Arc::new(serde_json::from_value(body).unwrap())
    }

    /// The objects after the API server has applied the manifests.
    fn applied(workload: &Workload) -> Live {
        let mut live = Live::default();
        for Manifest { kind, body, .. } in outdated(workload, &Live::default()) {
            match kind {
                Kind::ConfigMap => live.config_map = Some(object(body)),
                Kind::Deployment => live.deployment = Some(object(body)),
                Kind::Service => live.service = Some(object(body)),
                Kind::PodDisruptionBudget => live.disruption_budget = Some(object(body)),
            }
        }
        live
    }

    fn kinds(manifests: &[Manifest]) -> Vec<Kind> {
        manifests.iter().map(|manifest| manifest.kind).collect()
    }

    #[test]
    fn at_first_everything_is_applied_and_the_config_map_before_its_readers() {
        let kinds = kinds(&outdated(&workload(1), &Live::default()));
        assert_eq!(
            (kinds.len(), kinds.first(), kinds.last()),
            (4, Some(&Kind::ConfigMap), Some(&Kind::Deployment))
        );
    }

    #[test]
    fn nothing_is_applied_twice() {
        let workload = workload(1);
        assert_eq!(outdated(&workload, &applied(&workload)), []);
    }

    #[test]
    fn scaling_changes_only_the_deployment() {
        let live = applied(&workload(1));
        assert_eq!(kinds(&outdated(&workload(2), &live)), [Kind::Deployment]);
        assert!(
            has_template(&workload(2).deployment, &live),
            "scaling is not a rollout"
        );
    }

    #[test]
    fn an_edit_by_another_client_is_reverted() {
        let workload = workload(1);
        let mut live = applied(&workload);
        let mut edited = live.deployment.as_deref().unwrap().clone();
        edited.spec.as_mut().unwrap().replicas = Some(7);
        live.deployment = Some(Arc::new(edited));
        live.service = None;
        assert_eq!(
            kinds(&outdated(&workload, &live)),
            [Kind::Service, Kind::Deployment]
        );
    }

    #[test]
    fn a_write_without_effect_is_not_repeated_at_once() {
        let live = applied(&workload(1));
        let now = Timestamp::UNIX_EPOCH;
        let first = outdated(&workload(2), &live);
        let repeated = [Applied {
            write: first[0].write.clone(),
            at: now,
        }];

        let soon = now + SignedDuration::from_secs(59);
        assert_eq!(
            without_repeats(outdated(&workload(2), &live), &repeated, soon),
            []
        );
        let later = now + SignedDuration::from_mins(1);
        assert_eq!(
            without_repeats(outdated(&workload(2), &live), &repeated, later),
            first
        );
        let another = outdated(&workload(3), &live);
        assert_eq!(without_repeats(another.clone(), &repeated, soon), another);
    }
}
