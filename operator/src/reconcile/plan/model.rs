//! The model that the workers run, as reported by the container that fetched it. Pure.

use std::collections::BTreeMap;

use layra_crds::ModelStatus;

use super::conditions::Verdict;
use crate::{
    reconcile::{pods::WorkerPod, reason::Reason, world::World},
    resources::FETCH_MODEL,
};

/// The model of the newest pod that has fetched one, else the model known before.
pub(super) fn status(before: Option<&ModelStatus>, world: &World) -> Option<ModelStatus> {
    let newest = world
        .pods
        .iter()
        .filter_map(|pod| Some((pod.created, fetched(pod)?)))
        .max_by_key(|(created, _)| *created);
    match newest {
        Some((_, model)) => Some(model),
        None => before.cloned(),
    }
}

/// Adds to the verdict of ready workers that they have loaded different checkpoints. Pods of another
/// template may have another model: they are being replaced.
pub(super) fn judge(verdict: Verdict, world: &World) -> Verdict {
    if verdict.reason != Reason::WorkersReady || !verdict.is_true() {
        return verdict;
    }
    let pods = world
        .pods
        .iter()
        .filter(|pod| !pod.terminating && !pod.ended);
    let mut loaded: BTreeMap<(&Option<String>, String), usize> = BTreeMap::new();
    for pod in pods {
        if let Some(model) = fetched(pod) {
            *loaded.entry((&pod.template, model.checksum)).or_default() += 1;
        }
    }
    let is_shared = |template: &Option<String>| {
        let of_template = loaded.keys().filter(|(other, _)| *other == template);
        of_template.count() > 1
    };
    let different: Vec<String> = loaded
        .iter()
        .filter(|((template, _), _)| is_shared(template))
        .map(|((_, checksum), workers)| format!("{checksum} ({workers})"))
        .collect();
    if different.is_empty() {
        return verdict;
    }
    Verdict::yes(
        Reason::ModelDiffers,
        format!(
            "Workers with the same configuration have loaded different checkpoints, whose vectors cannot be compared: {}. Pin a revision in embedding.model.uri (hf://organisation/name@COMMIT), or restore the files in the bucket, and restart the workers.",
            different.join(", ")
        ),
    )
}

fn fetched(pod: &WorkerPod) -> Option<ModelStatus> {
    let mut containers = pod.containers.iter();
    let fetch = containers.find(|container| container.name == FETCH_MODEL)?;
    let end = fetch.state.as_ref()?.terminated.as_ref()?;
    if end.exit_code != 0 {
        return None;
    }
    // A worker of another version may report something else.
    serde_json::from_str(end.message.as_deref()?).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::fixtures;

    fn pod(created: &str, exit_code: i32, message: &Value) -> Value {
        json!({
            "metadata": {"creationTimestamp": created},
            "status": {"initContainerStatuses": [{
                "name": "fetch-model", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "state": {"terminated": {"exitCode": exit_code, "message": message.to_string()}},
            }]},
        })
    }

    /// A ready worker's pod of this template.
    fn loaded(template: &str, checksum: &str) -> Value {
        let mut pod = pod("2026-11-23T10:00:00Z", 0, &model(checksum));
        pod["metadata"]["labels"] = json!({"pod-template-hash": template});
        pod
    }

    fn judged(pods: Vec<Value>) -> Verdict {
        let ready = Verdict::yes(Reason::WorkersReady, "2 of 2 workers are ready.");
        judge(ready, &world(pods))
    }

    #[test]
    fn two_checkpoints_of_one_template_are_reported() {
        let verdict = judged(vec![loaded("a", "sha256:1"), loaded("a", "sha256:2")]);
        assert_eq!(verdict.reason, Reason::ModelDiffers);
        assert!(verdict.is_true());
        let message = &verdict.message;
        assert!(message.contains("sha256:1 (1), sha256:2 (1)"), "{message}");
    }

    #[test]
    fn a_rollout_to_another_model_is_no_difference() {
        let pods = vec![loaded("a", "sha256:1"), loaded("b", "sha256:2")];
        assert_eq!(judged(pods).reason, Reason::WorkersReady);
        let same = vec![loaded("a", "sha256:1"), loaded("a", "sha256:1")];
        assert_eq!(judged(same).reason, Reason::WorkersReady);
    }

    fn world(pods: Vec<Value>) -> World {
        World {
            pods: pods.into_iter().map(fixtures::pod).collect(),
            ..World::unobserved()
        }
    }

    fn model(checksum: &str) -> Value {
        json!({"checksum": checksum, "dimensions": 128, "bytes": 7_500_000_000_u64})
    }

    #[test]
    fn the_model_of_the_newest_pod_that_has_fetched_one_is_shown() {
        let world = world(vec![
            pod("2026-11-23T10:00:01Z", 0, &model("sha256:new")),
            pod("2026-11-23T10:00:00Z", 0, &model("sha256:old")),
            pod("2026-11-23T10:00:02Z", 1, &json!("no such bucket")),
        ]);
        assert_eq!(status(None, &world).unwrap().checksum, "sha256:new");
    }

    #[test]
    fn the_model_stays_known_while_there_is_no_worker() {
        let before = serde_json::from_value(model("sha256:old")).unwrap();
        let after = status(Some(&before), &world(Vec::new()));
        assert_eq!(after, Some(before));
    }
}
