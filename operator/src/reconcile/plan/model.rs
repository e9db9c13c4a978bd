//! The model that the workers run, as reported by the container that fetched it. Pure.

use layra_crds::ModelStatus;

use crate::{
    reconcile::{pods::WorkerPod, world::World},
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
