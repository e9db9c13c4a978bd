//! The objects to apply: those that are absent, that the operator would now write differently, or
//! that another client changed. Pure.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    reconcile::world::{Applied, Live, LiveQuery, PastWrites, Write},
    resources::{
        APPLIED_HASH, Difference, Kind, Query, Workload, differences, hash_of, is_applied,
        with_differences,
    },
};

/// A write that had no effect is repeated after this long.
const REPEAT_AFTER: SignedDuration = SignedDuration::from_mins(1);

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Manifest {
    pub(crate) kind: Kind,
    pub(crate) body: Value,
    /// Identifies the write.
    pub(crate) write: Write,
    /// Hash of the Deployment's pod template before the write.
    pub(crate) template_before: Option<String>,
}

impl Manifest {
    /// The object's name.
    pub(crate) fn name(&self) -> String {
        let name = self.body["metadata"]["name"].as_str();
        name.unwrap_or_default().to_owned()
    }

    /// Whether it is a Deployment with the pod template of the live one.
    pub(crate) fn keeps_template(&self) -> bool {
        let template = || hash_of(&self.body["spec"]["template"]);
        self.template_before.as_ref() == Some(&template())
    }
}

/// How the objects of a pipeline differ from those in the cluster.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    /// The objects to apply: absent, or with a difference. Fields that other writers added are left
    /// alone.
    pub(super) outdated: Vec<Manifest>,
    /// What another writer changed and will change again, so that applying is futile.
    pub(super) overridden: Vec<(Kind, Difference)>,
}

/// Compares all objects of a pipeline.
pub(super) fn compare_all(workload: &Workload, live: &Live, past: &PastWrites) -> Comparison {
    let mut comparison = Comparison::default();
    let all = &mut comparison;
    compare(
        Kind::ConfigMap,
        &workload.config_map,
        live.config_map.as_deref(),
        past,
        all,
    );
    compare(
        Kind::Service,
        &workload.service,
        live.service.as_deref(),
        past,
        all,
    );
    compare(
        Kind::PodDisruptionBudget,
        &workload.disruption_budget,
        live.disruption_budget.as_deref(),
        past,
        all,
    );
    compare(
        Kind::Deployment,
        &workload.deployment,
        live.deployment.as_deref(),
        past,
        all,
    );
    if let Some(retention) = &workload.retention {
        let live = live.retention.as_deref();
        compare(Kind::CronJob, retention, live, past, all);
    }
    if let Some(query) = &workload.query {
        compare_query(query, &live.query, past, all);
    }
    comparison
}

fn compare_query(query: &Query, live: &LiveQuery, past: &PastWrites, all: &mut Comparison) {
    let name = query.service.name_any();
    let service = live.services.iter().find(|it| it.name_any() == name);
    let service = service.map(AsRef::as_ref);
    compare(Kind::QueryService, &query.service, service, past, all);
    compare(
        Kind::QueryDisruptionBudget,
        &query.disruption_budget,
        live.disruption_budget.as_deref(),
        past,
        all,
    );
    if let Some(deployment) = &query.deployment {
        let live = live.deployment.as_deref();
        compare(Kind::QueryDeployment, deployment, live, past, all);
    }
}

/// Whether the live Deployment has the wanted pod template, or what another writer makes of it.
pub(super) fn has_template(wanted: &Deployment, live: &Live, past: &PastWrites) -> bool {
    let wanted = with_differences(value(wanted), past.overrides(Kind::Deployment));
    live.deployment.as_deref().is_some_and(|live| {
        is_applied(
            &wanted["spec"]["template"],
            &value(live)["spec"]["template"],
        )
    })
}

/// Whether applying the manifest replaces the pods.
pub(super) fn changes_template(manifest: &Manifest, live: &Deployment, past: &PastWrites) -> bool {
    let expected = with_differences(manifest.body.clone(), past.overrides(manifest.kind));
    !is_applied(
        &expected["spec"]["template"],
        &value(live)["spec"]["template"],
    )
}

/// Where the pod template of the live Deployment differs from the manifest's.
pub(super) fn template_difference(manifest: &Manifest, live: &Deployment) -> Option<Difference> {
    let template = |object: &Value| json!({"spec": {"template": object["spec"]["template"]}});
    differences(&template(&manifest.body), &template(&value(live)))
        .into_iter()
        .next()
}

/// Hash of a Deployment's pod template.
pub(crate) fn template_hash(deployment: &Deployment) -> String {
    hash_of(&value(deployment)["spec"]["template"])
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

fn compare<K: Serialize>(
    kind: Kind,
    wanted: &K,
    live: Option<&K>,
    past: &PastWrites,
    all: &mut Comparison,
) {
    let mut body = value(wanted);
    // The hash detects what the comparison cannot: a field that is no longer part of the object.
    let hash = hash_of(&body);
    body["metadata"]["annotations"][APPLIED_HASH] = json!(hash);
    let current = live.map(|live| value(live));
    if let Some(current) = &current {
        if is_applied(&body, current) {
            return;
        }
        let overrides = past.overrides(kind);
        if !overrides.is_empty() && is_applied(&with_differences(body.clone(), overrides), current)
        {
            let first = differences(&body, current).into_iter().next();
            all.overridden.extend(first.map(|first| (kind, first)));
            return;
        }
    }
    let template_before = current
        .as_ref()
        .filter(|_| kind == Kind::Deployment)
        .map(|current| hash_of(&current["spec"]["template"]));
    let onto = current.map(|current| {
        let metadata = &current["metadata"];
        hash_of(&[
            &current["spec"],
            &current["data"],
            &metadata["labels"],
            &metadata["annotations"],
        ])
    });
    all.outdated.push(Manifest {
        kind,
        body,
        write: Write { kind, hash, onto },
        template_before,
    });
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
        reconcile::world::Override,
        resources::{self, Inputs},
    };

    fn outdated(workload: &Workload, live: &Live) -> Vec<Manifest> {
        compare_all(workload, live, &PastWrites::default()).outdated
    }

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
                Kind::CronJob => live.retention = Some(object(body)),
                Kind::QueryDeployment => live.query.deployment = Some(object(body)),
                Kind::QueryService => live.query.services = vec![object(body)],
                Kind::QueryDisruptionBudget => {
                    live.query.disruption_budget = Some(object(body));
                }
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
            has_template(&workload(2).deployment, &live, &PastWrites::default()),
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

    #[test]
    fn what_a_webhook_makes_of_a_write_is_accepted_until_something_else_differs() {
        let mut live = applied(&workload(1));
        let image = |live: &mut Live, image: &str| {
            let mut deployment = live.deployment.as_deref().unwrap().clone();
            let template = &mut deployment.spec.as_mut().unwrap().template;
            let pod = template.spec.as_mut().unwrap();
            pod.containers[0].image = Some(image.to_owned());
            live.deployment = Some(Arc::new(deployment));
        };
        image(&mut live, "registry.local/worker:1");
        let first = outdated(&workload(1), &live);
        assert_eq!(kinds(&first), [Kind::Deployment]);

        // The API server returned the object as the webhook changed it.
        let returned = value(live.deployment.as_deref().unwrap());
        let past = PastWrites {
            overrides: vec![Override {
                kind: Kind::Deployment,
                differences: differences(&first[0].body, &returned),
            }],
            ..PastWrites::default()
        };
        let settled = compare_all(&workload(1), &live, &past);
        assert_eq!(settled.outdated, []);
        let (kind, difference) = &settled.overridden[0];
        assert_eq!(*kind, Kind::Deployment);
        assert_eq!(
            difference.to_string(),
            r#"spec.template.spec.containers[0].image is "registry.local/worker:1", not "worker:1""#
        );
        assert!(has_template(&workload(1).deployment, &live, &past));

        let scaled = compare_all(&workload(2), &live, &past);
        assert_eq!(kinds(&scaled.outdated), [Kind::Deployment]);
        assert!(
            has_template(&workload(2).deployment, &live, &past),
            "scaling is no rollout"
        );

        image(&mut live, "somebody/else:1");
        assert!(!has_template(&workload(1).deployment, &live, &past));
        assert_eq!(compare_all(&workload(1), &live, &past).outdated.len(), 1);
    }
}
