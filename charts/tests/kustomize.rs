//! The kustomize bases equal the charts.

use std::ffi::OsStr;

use layra_charts::{helm, kustomize, path};
use serde_json::Value;

#[test]
fn the_bases_are_what_the_charts_render() {
    for (file, fresh) in [
        ("kustomize/operator/operator.yaml", kustomize::operator()),
        (
            "kustomize/definition/user-roles.yaml",
            kustomize::user_roles(),
        ),
    ] {
        let fresh = fresh.unwrap();
        if std::env::var_os("UPDATE_KUSTOMIZE").is_some() {
            std::fs::write(path(file), &fresh).unwrap();
        }
        assert!(
            std::fs::read_to_string(path(file)).unwrap_or_default() == fresh,
            "{file} is stale: run `UPDATE_KUSTOMIZE=1 cargo test --workspace --test kustomize`"
        );
    }
}

#[test]
fn kustomize_builds_both_bases() {
    let kinds = |base: &str| -> Vec<String> {
        let base = path(base);
        let arguments: [&OsStr; 2] = ["kustomize".as_ref(), base.as_ref()];
        let text = helm::run("kubectl", &arguments, "").unwrap();
        let objects = helm::objects(&text).unwrap();
        assert!(!text.contains("helm.sh") && !text.contains("Helm"));
        assert!(
            objects
                .iter()
                .all(|object| object["metadata"]["namespace"] == Value::Null)
        );
        let kinds = objects.iter().map(|object| object["kind"].as_str());
        kinds
            .map(|kind| kind.unwrap_or_default().to_owned())
            .collect()
    };
    assert_eq!(
        kinds("kustomize/operator"),
        [
            "ServiceAccount",
            "Role",
            "RoleBinding",
            "Service",
            "Deployment"
        ]
    );
    assert_eq!(
        kinds("kustomize/definition"),
        ["CustomResourceDefinition", "ClusterRole", "ClusterRole"]
    );
}
