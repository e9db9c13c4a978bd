//! What the status of a Job's pod means for the command in it. Pure.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Pod};

use super::job::WORKER;

/// Reasons of a waiting container that do not go away without a fix.
const CANNOT_START: [&str; 6] = [
    "CreateContainerConfigError",
    "CreateContainerError",
    "ErrImageNeverPull",
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
];

/// How far the command is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// No node has room for the pod; why.
    Unschedulable(String),
    /// On a node, not yet running; what happens.
    Starting(String),
    /// The command will not run; why.
    Failed(String),
    Running,
    Ended(Ended),
}

/// How the command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    /// The exit code of the container.
    pub(super) code: u8,
    /// Kubernetes' reason, for example `Completed`, `Error` or `OOMKilled`.
    reason: String,
    message: String,
}

impl Ended {
    fn new(terminated: &ContainerStateTerminated) -> Self {
        Self {
            code: u8::try_from(terminated.exit_code).unwrap_or(1),
            reason: terminated.reason.clone().unwrap_or_default(),
            message: terminated.message.clone().unwrap_or_default(),
        }
    }

    /// Why the command ended, unless it ended by itself: then its log says why.
    pub(super) fn explanation(&self) -> Option<String> {
        let Self {
            code,
            reason,
            message,
        } = self;
        match reason.as_str() {
            "" | "Completed" | "Error" => None,
            "OOMKilled" => Some(format!(
                "OOMKilled (exit code {code}): the command exceeded worker.resources.limits.memory \
                 of the pipeline"
            )),
            _ => Some(format!("{reason} (exit code {code}): {message}")),
        }
    }
}

/// Reads the state of the command from the status of its pod.
pub(super) fn state(pod: &Pod) -> State {
    let status = pod.status.clone().unwrap_or_default();
    let containers = status.container_statuses.unwrap_or_default();
    let init_containers = status.init_container_statuses.unwrap_or_default();
    let worker = containers.iter().find(|container| container.name == WORKER);
    let worker = worker.and_then(|container| container.state.as_ref());
    if let Some(terminated) = worker.and_then(|state| state.terminated.as_ref()) {
        return State::Ended(Ended::new(terminated));
    }
    let all = || init_containers.iter().chain(&containers);
    if let Some(why) = all().find_map(cannot_start) {
        return State::Failed(why);
    }
    if status.phase.as_deref() == Some("Failed") {
        let why = init_containers.iter().find_map(failure);
        return State::Failed(why.unwrap_or_else(|| {
            let reason = status.reason.unwrap_or_else(|| "Failed".to_owned());
            let message = status.message.unwrap_or_default();
            format!("{reason}: {message}")
        }));
    }
    if worker.is_some_and(|state| state.running.is_some()) {
        return State::Running;
    }
    let unschedulable = status
        .conditions
        .unwrap_or_default()
        .into_iter()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    if let Some(condition) = unschedulable {
        return State::Unschedulable(condition.message.unwrap_or_default());
    }
    let running = init_containers
        .iter()
        .find(|container| is_running(container.state.as_ref()));
    if let Some(container) = running {
        return State::Starting(format!("container {} is running", container.name));
    }
    let waiting = all().find_map(|container| container.state.as_ref()?.waiting.as_ref());
    let reason = waiting.and_then(|waiting| waiting.reason.clone());
    State::Starting(reason.unwrap_or_else(|| "Pending".to_owned()))
}

fn is_running(state: Option<&ContainerState>) -> bool {
    state.is_some_and(|state| state.running.is_some())
}

/// Why a container cannot start, if waiting longer would not help.
fn cannot_start(container: &ContainerStatus) -> Option<String> {
    let ContainerStatus { name, image, .. } = container;
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref()?;
    let message = waiting.message.as_deref().unwrap_or_default();
    let what = if reason.contains("Image") {
        format!("image {image} cannot be pulled")
    } else {
        format!("container {name} cannot be created")
    };
    CANNOT_START
        .contains(&reason)
        .then(|| format!("{what}: {reason}: {message}"))
}

/// How a container failed.
fn failure(container: &ContainerStatus) -> Option<String> {
    let terminated = container.state.as_ref()?.terminated.as_ref()?;
    let message = terminated.message.as_deref().unwrap_or_default().trim();
    let (name, code) = (&container.name, terminated.exit_code);
    (code != 0).then(|| format!("container {name} failed with exit code {code}: {message}"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn state_of(status: Value) -> State {
        let mut pod = json!({});
        pod["status"] = status;
        state(&serde_json::from_value(pod).unwrap())
    }

    fn container(name: &str, state: Value) -> Value {
        let mut status = json!({
            "name": name, "image": "registry/layra-worker:1", "imageID": "", "ready": false,
            "restartCount": 0,
        });
        status["state"] = state;
        status
    }

    fn worker(state: Value) -> State {
        state_of(json!({"containerStatuses": [container("worker", state)]}))
    }

    fn fetch_model(state: Value) -> State {
        let waiting = json!({"waiting": {"reason": "PodInitializing"}});
        state_of(json!({
            "initContainerStatuses": [container("fetch-model", state)],
            "containerStatuses": [container("worker", waiting)],
        }))
    }

    #[test]
    fn a_pod_without_a_node_is_unschedulable_with_the_schedulers_message() {
        let condition = json!({
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "0/3 nodes are available: 3 Insufficient memory.",
        });
        let state = state_of(json!({"phase": "Pending", "conditions": [condition]}));
        let message = "0/3 nodes are available: 3 Insufficient memory.";
        assert_eq!(state, State::Unschedulable(message.into()));
    }

    #[test]
    fn a_pod_on_a_node_is_starting_until_the_worker_runs() {
        assert_eq!(state_of(json!({})), State::Starting("Pending".into()));
        assert_eq!(
            worker(json!({"waiting": {"reason": "ContainerCreating"}})),
            State::Starting("ContainerCreating".into())
        );
        assert_eq!(
            fetch_model(json!({"running": {}})),
            State::Starting("container fetch-model is running".into())
        );
        assert_eq!(
            fetch_model(json!({"terminated": {"exitCode": 0}})),
            State::Starting("PodInitializing".into())
        );
        assert_eq!(worker(json!({"running": {}})), State::Running);
    }

    #[test]
    fn an_image_that_cannot_be_pulled_fails_with_the_reason() {
        let waiting = json!({"reason": "ImagePullBackOff", "message": "Back-off pulling image"});
        let expected = "image registry/layra-worker:1 cannot be pulled: ImagePullBackOff: \
                        Back-off pulling image";
        for state in [
            worker(json!({"waiting": waiting})),
            fetch_model(json!({"waiting": waiting})),
        ] {
            assert_eq!(state, State::Failed(expected.into()));
        }
    }

    #[test]
    fn a_model_that_cannot_be_fetched_fails_with_the_containers_message() {
        let terminated = json!({"exitCode": 1, "reason": "Error", "message": "no such bucket\n"});
        let state = state_of(json!({
            "phase": "Failed",
            "initContainerStatuses": [container("fetch-model", json!({"terminated": terminated}))],
        }));
        let expected = "container fetch-model failed with exit code 1: no such bucket";
        assert_eq!(state, State::Failed(expected.into()));
    }

    #[test]
    fn an_evicted_pod_fails_with_the_kubelets_message() {
        let status = json!({"phase": "Failed", "reason": "Evicted", "message": "The node is low."});
        assert_eq!(
            state_of(status),
            State::Failed("Evicted: The node is low.".into())
        );
    }

    #[test]
    fn the_exit_code_is_that_of_the_container() {
        let State::Ended(ended) = worker(json!({"terminated": {"exitCode": 3, "reason": "Error"}}))
        else {
            panic!("expected an ended command");
        };
        assert_eq!((ended.code, ended.explanation()), (3, None));
    }

    #[test]
    fn a_command_that_kubernetes_ended_is_explained() {
        let State::Ended(ended) =
            worker(json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}))
        else {
            panic!("expected an ended command");
        };
        assert_eq!(ended.code, 137);
        let explanation = ended.explanation().unwrap();
        assert!(
            explanation.starts_with("OOMKilled (exit code 137): "),
            "{explanation}"
        );
    }
}
