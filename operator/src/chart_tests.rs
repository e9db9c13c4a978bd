//! What the chart grants and installs, as text: Helm runs in the end-to-end tests.

const ROLE: &str = include_str!("../../charts/layra-operator/templates/rbac.yaml");
const USERS: &str = include_str!("../../charts/layra-operator/templates/user-roles.yaml");
const DEFINITION: &str = include_str!("../../charts/layra-operator/templates/crd.yaml");
const VALUES: &str = include_str!("../../charts/layra-operator/values.yaml");
const GUIDE: &str = include_str!("../../docs/operations.md");

/// The verbs that a role has on a resource.
fn verbs(resource: &str) -> Vec<&'static str> {
    let mut lines = ROLE.lines().map(str::trim);
    let is_rule = |line: &&str| {
        let list = line
            .strip_prefix("resources: [")
            .and_then(|it| it.strip_suffix(']'));
        list.is_some_and(|list| list.split(", ").any(|other| other == resource))
    };
    lines.find(is_rule).expect("a rule");
    let verbs = lines.find_map(|line| line.strip_prefix("verbs: ["));
    verbs
        .expect("verbs")
        .trim_end_matches(']')
        .split(", ")
        .collect()
}

#[test]
fn the_operator_may_delete_only_jobs_and_reads_only_secrets_that_it_knows_by_name() {
    let granted = || ROLE.lines().filter(|line| line.contains("verbs:"));
    assert!(granted().all(|line| !line.contains('*')));
    let deleting = granted().filter(|line| line.contains("delete"));
    assert_eq!(deleting.count(), 1, "one rule");
    assert!(verbs("jobs").contains(&"delete"));
    assert!(!ROLE.contains("kind: ClusterRole"));
    assert_eq!(verbs("secrets"), ["get"]);
    assert_eq!(
        verbs("deployments"),
        ["get", "list", "watch", "create", "patch"]
    );
    assert_eq!(verbs("pods"), ["get", "list", "watch", "patch"]);
}

#[test]
fn pipelines_belong_to_the_roles_view_and_edit_of_a_cluster() {
    for role in ["view", "edit", "admin"] {
        let label = format!("rbac.authorization.k8s.io/aggregate-to-{role}: \"true\"");
        assert!(USERS.contains(&label), "{role}");
    }
}

#[test]
fn a_second_release_can_be_installed_without_the_definition_and_waits_for_the_lease() {
    assert!(DEFINITION.contains("if .Values.crds.install"));
    assert!(VALUES.contains("install: true"));
    assert!(GUIDE.contains("`crds.install: false`"));
    // The same lease for all releases.
    assert!(ROLE.contains("resourceNames: [layra-operator]"));
}

/// Argo CD shows a custom resource as healthy, whatever its conditions, unless it has a script.
#[test]
fn the_guide_has_a_script_with_which_argo_cd_reads_the_conditions() {
    let script = GUIDE
        .split("```lua")
        .nth(1)
        .and_then(|rest| rest.split("```").next());
    let script = script.expect("a script");
    for word in [
        "Stalled",
        "Ready",
        "observedGeneration",
        "Degraded",
        "Progressing",
        "Healthy",
    ] {
        assert!(script.contains(word), "{word}");
    }
}
