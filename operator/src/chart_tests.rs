//! What the charts grant, as text. What Helm makes of them is tested in `charts/tests`.

const ROLE: &str = include_str!("../../charts/layra-operator/templates/rbac.yaml");
const USERS: &str = include_str!("../../charts/layra-crds/templates/user-roles.yaml");

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
fn the_operator_deletes_no_configuration_and_reads_only_secrets_that_it_knows_by_name() {
    let granted = || ROLE.lines().filter(|line| line.contains("verbs:"));
    assert!(granted().all(|line| !line.contains('*')));
    let deleting = granted().filter(|line| line.contains("delete"));
    assert_eq!(deleting.count(), 4, "jobs, and what answers questions");
    for resource in ["jobs", "deployments", "services", "poddisruptionbudgets"] {
        assert!(verbs(resource).contains(&"delete"), "{resource}");
    }
    assert!(!ROLE.contains("kind: ClusterRole"));
    assert_eq!(verbs("secrets"), ["get"]);
    assert_eq!(
        verbs("configmaps"),
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
fn the_operators_of_two_releases_take_turns() {
    // The same lease for all releases.
    assert!(ROLE.contains("resourceNames: [layra-operator]"));
}
