//! Whether an existing object belongs to a pipeline. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, ResourceExt};
use layra_crds::IngestionPipeline;

use super::{INSTANCE_LABEL, labels};

/// Whether an object with the name of a pipeline's object belongs to something else. Objects of a
/// deleted pipeline of the same name are taken over, also those that the deletion orphaned.
pub(crate) fn is_foreign(found: &ObjectMeta, pipeline: &IngestionPipeline) -> bool {
    let owners = found.owner_references.as_deref().unwrap_or_default();
    if owners
        .iter()
        .any(|owner| Some(&owner.uid) == pipeline.metadata.uid.as_ref())
    {
        return false;
    }
    let name = pipeline.name_any();
    let controller = owners.iter().find(|owner| owner.controller == Some(true));
    if let Some(owner) = controller {
        return owner.kind != IngestionPipeline::kind(&()) || owner.name != name;
    }
    let found = found.labels.as_ref();
    let has =
        |key: &String, value: &String| found.and_then(|labels| labels.get(key)) == Some(value);
    let says_whose = |key: &str| [INSTANCE_LABEL, "app.kubernetes.io/managed-by"].contains(&key);
    let labels = labels(&name);
    let mut whose = labels.iter().filter(|(key, _)| says_whose(key));
    !whose.all(|(key, value)| has(key, value))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::fixtures;

    fn foreign(metadata: Value) -> bool {
        is_foreign(
            &serde_json::from_value(metadata).unwrap(),
            &fixtures::pipeline(),
        )
    }

    fn owner(kind: &str, name: &str, uid: &str) -> Value {
        json!({"apiVersion": "v1", "kind": kind, "name": name, "uid": uid, "controller": true})
    }

    #[test]
    fn an_object_of_somebody_else_is_foreign() {
        assert!(foreign(json!({"name": "contracts-worker"})));
        assert!(foreign(json!({"labels": {
            "app.kubernetes.io/managed-by": "Helm",
            "app.kubernetes.io/instance": "contracts"}})));
        let labels = labels("contracts");
        let other = owner("IngestionPipeline", "invoices", "9");
        assert!(foreign(
            json!({"labels": labels, "ownerReferences": [other]})
        ));
        let set = owner("ReplicaSet", "contracts", "9");
        assert!(foreign(json!({"labels": labels, "ownerReferences": [set]})));
    }

    #[test]
    fn objects_of_this_pipeline_and_of_its_predecessor_are_not_foreign() {
        let uid = fixtures::pipeline().metadata.uid.unwrap();
        let owned = owner("IngestionPipeline", "contracts", &uid);
        assert!(!foreign(json!({"ownerReferences": [owned]})));
        let predecessor = owner("IngestionPipeline", "contracts", "of the deleted one");
        assert!(!foreign(json!({"ownerReferences": [predecessor]})));
        assert!(!foreign(json!({"labels": labels("contracts")})), "orphaned");
    }
}
