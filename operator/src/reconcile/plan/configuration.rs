//! A configuration that new workers refuse: `layra-worker check`, which runs before the model is
//! fetched, reports the fields. Pure.

use k8s_openapi::api::core::v1::ContainerStatus;
use layra_crds::CheckReport;

use super::workers::failed_exit;
use crate::{
    reconcile::{reason::Reason, world::Problem},
    resources::FETCH_MODEL,
};

/// The checks that failed in a container.
pub(super) fn problem(container: &ContainerStatus) -> Option<Problem> {
    if container.name != FETCH_MODEL || container.ready {
        return None;
    }
    let report = CheckReport::from_message(failed_exit(container)?.message.as_deref()?)?;
    let failed = report.failed_checks.iter();
    let failed: Vec<String> = failed
        .map(|check| format!("{}: {}.", check.field, check.problem.trim_end_matches('.')))
        .collect();
    let message = format!("New workers refuse the configuration. {}", failed.join(" "));
    Some(Problem::new(Reason::ConfigurationInvalid, message))
}

/// Adds what a refused configuration means for the workers that are ready: they have the one before.
pub(super) fn with_others(problem: Problem, ready: i32) -> Problem {
    if problem.reason != Reason::ConfigurationInvalid || ready == 0 {
        return problem;
    }
    let message = format!(
        "{} The rollout stops here. Workers that keep working with the configuration of before: {ready}.",
        problem.message
    );
    Problem::new(problem.reason, message)
}

#[cfg(test)]
mod tests {
    use layra_crds::FailedCheck;
    use serde_json::{Value, json};

    use super::*;

    const PROBLEM: &str = "the server refuses the credentials. Correct the Secret";

    fn report() -> String {
        let failed = |field: &str| FailedCheck {
            field: field.into(),
            problem: PROBLEM.into(),
        };
        let failed_checks = vec![
            failed("stores.mongodb.uriSecretRef"),
            failed("worker.image"),
        ];
        CheckReport { failed_checks }.to_message()
    }

    fn container(name: &str, state: &Value) -> ContainerStatus {
        let mut status = json!({"name": name, "image": "", "imageID": "", "ready": false,
            "restartCount": 0});
        for (key, value) in state.as_object().unwrap() {
            status[key] = value.clone();
        }
        serde_json::from_value(status).unwrap()
    }

    #[test]
    fn a_failed_check_names_the_fields_also_while_the_container_waits_or_runs_again() {
        let end = json!({"terminated": {"exitCode": 1, "message": report()}});
        for state in [
            json!({"state": end}),
            json!({"lastState": end, "state": {"running": {}}}),
            json!({"lastState": end, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}),
        ] {
            let problem = problem(&container("fetch-model", &state)).unwrap();
            assert_eq!(problem.reason, Reason::ConfigurationInvalid);
            let expected = format!(
                "New workers refuse the configuration. stores.mongodb.uriSecretRef: {PROBLEM}. \
                 worker.image: {PROBLEM}."
            );
            assert_eq!(problem.message, expected);
            let rollout = with_others(problem.clone(), 2).message;
            assert!(rollout.starts_with(&expected), "{rollout}");
            assert!(
                rollout.ends_with("with the configuration of before: 2."),
                "{rollout}"
            );
            assert_eq!(with_others(problem, 0).message, expected);
        }
    }

    #[test]
    fn other_ends_are_none_of_its_business() {
        let end = |code: i32, message: &str| json!({"state": {"terminated": {"exitCode": code, "message": message}}});
        let missing = end(1, "model: ModelNotFound: no file config.json");
        assert!(problem(&container("fetch-model", &missing)).is_none());
        assert!(problem(&container("worker", &end(1, &report()))).is_none());
        assert!(problem(&container("fetch-model", &end(0, &report()))).is_none());
        let crash = Problem::new(Reason::WorkersCrashing, "A worker crashed: x");
        assert_eq!(with_others(crash.clone(), 2).message, crash.message);
    }
}
