//! The operator, the definition and the versions.

use super::*;
use crate::doctor::finding::Installation;

#[test]
fn images_of_two_versions_are_a_warning() {
    let mut seen = healthy();
    let mut workers = deployment();
    workers["spec"]["template"]["spec"]["containers"][0]["image"] =
        json!("registry:5000/layra-worker:v0.0.9@sha256:00");
    seen.deployment = Read::Found(from(workers));
    let findings = check(&seen);
    says(
        &findings[0],
        Severity::Note,
        &["the operator's default is registry/layra-worker:0.1.0"],
    );
    let mut object = pipeline();
    object["spec"]["worker"] = json!({"image": "registry:5000/layra-worker:v0.0.9"});
    seen.pipeline = from(object);
    let words = [
        "The workers run version 0.0.9",
        "the operator is version 0.1.0",
    ];
    says(&only(&seen), Severity::Warning, &words);
    // A tag that is no version says nothing.
    let mut workers = deployment();
    workers["spec"]["template"]["spec"]["containers"][0]["image"] = json!("layra-worker:1a2b3c");
    seen.deployment = Read::Found(from(workers));
    assert_eq!(check(&seen), []);
}

fn installation() -> Installation {
    Installation {
        now: now(),
        namespace: "rag".to_owned(),
        definition: Read::Found(own_fields()),
        lease: lease(Some("ops/layra-operator-abc"), "2026-11-28T01:59:57Z"),
        renewed: false,
        operators: Read::Found(vec![from(operator())]),
    }
}

fn own_fields() -> BTreeSet<String> {
    installation::fields(&serde_json::to_value(IngestionPipeline::crd()).unwrap())
}

fn lease(holder: Option<&str>, time: &str) -> Read<k8s_openapi::api::coordination::v1::Lease> {
    let time = time.replace('Z', ".000000Z");
    Read::Found(from(json!({"metadata": {}, "spec": {
        "holderIdentity": holder, "renewTime": time}})))
}

fn of_installation(change: impl FnOnce(&mut Installation)) -> Vec<Finding> {
    let mut installation = installation();
    change(&mut installation);
    installation::check(&installation, &own_fields())
}

#[test]
fn nothing_is_said_about_a_healthy_installation_or_one_that_may_not_be_read() {
    assert_eq!(of_installation(|_| {}), []);
    let unread = of_installation(|installation| {
        installation.definition = Read::Unread;
        installation.lease = Read::Unread;
        installation.operators = Read::Unread;
    });
    assert_eq!(unread, []);
}

#[test]
fn an_operator_that_does_not_lead_is_a_problem() {
    let old = "2026-11-28T01:50:00Z";
    for (lease, renewed, words) in [
        (
            Read::Absent,
            false,
            "No operator has ever watched namespace rag",
        ),
        (lease(None, NOW), false, "the last one has stopped"),
        (
            lease(Some("a"), old),
            false,
            "a has not renewed its lease since 2026-11-28 01:50:00 UTC",
        ),
    ] {
        let findings = of_installation(|installation| {
            installation.lease = lease;
            installation.renewed = renewed;
        });
        assert_eq!(findings.len(), 1, "{findings:#?}");
        says(
            &findings[0],
            Severity::Problem,
            &["operator of namespace rag", words],
        );
    }
    // Only its clock differs.
    let findings = of_installation(|installation| {
        installation.lease = lease(Some("a"), old);
        installation.renewed = true;
    });
    assert_eq!(findings, []);
}

#[test]
fn an_operator_without_a_pod_is_a_problem_and_another_version_a_warning() {
    let findings = of_installation(|installation| {
        let mut operator = operator();
        operator["status"] = json!({});
        operator["metadata"]["labels"]["app.kubernetes.io/version"] = json!("9.9.9");
        installation.operators = Read::Found(vec![from(operator)]);
    });
    says(
        &findings[0],
        Severity::Problem,
        &["Deployment ops/layra-operator", "of 1 wanted"],
    );
    says(
        &findings[1],
        Severity::Warning,
        &["The operator is version 9.9.9"],
    );
}

#[test]
fn a_definition_of_another_version_names_a_field() {
    let older = of_installation(|installation| {
        let mut fields = own_fields();
        fields.retain(|field| !field.starts_with("spec.paused"));
        installation.definition = Read::Found(fields);
    });
    let words = [
        "older than this kubectl layra",
        "the field spec.paused",
        "layra-crds",
    ];
    says(&older[0], Severity::Warning, &words);
    let newer = of_installation(|installation| {
        let mut fields = own_fields();
        fields.insert("spec.future".to_owned());
        fields.insert("spec.future.b".to_owned());
        installation.definition = Read::Found(fields);
    });
    says(
        &newer[0],
        Severity::Warning,
        &["2 fields, for example spec.future"],
    );
    assert!(own_fields().contains("spec.source.kafka.topic"));
}

#[test]
fn an_operator_watches_its_own_namespace_or_those_that_are_named() {
    let mut object = operator();
    let watches =
        |object: &Value, namespace| installation::watches(&from(object.clone()), namespace);
    assert!(watches(&object, "rag") && watches(&object, "other"));
    assert!(!watches(&object, "ops"));
    object["spec"]["template"]["spec"]["containers"][0]["env"] = json!([]);
    assert!(watches(&object, "ops") && !watches(&object, "rag"));
}
