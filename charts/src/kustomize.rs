//! The kustomize bases: what Helm renders with default values, without what belongs to a release.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::helm;

/// Name of the release that is rendered, so that objects are called as the chart is.
const RELEASE: &str = "layra-operator";

/// The objects of the base `operator`, in one file.
pub fn operator() -> Result<String> {
    let text = helm::template("layra-operator", RELEASE, "default", &json!({}))?;
    written(helm::objects(&text)?)
}

/// The roles of the base `definition`. The definition itself is that of the chart.
pub fn user_roles() -> Result<String> {
    let text = helm::template("layra-crds", "layra-crds", "default", &json!({}))?;
    let objects = helm::objects(&text)?.into_iter();
    written(
        objects
            .filter(|object| object["kind"] == "ClusterRole")
            .collect(),
    )
}

fn written(objects: Vec<Value>) -> Result<String> {
    let mut text = "# Generated from the chart with its default values. UPDATE_KUSTOMIZE=1 \
                    cargo test --workspace --test kustomize\n"
        .to_owned();
    for mut object in objects {
        release_from_release(&mut object)?;
        text.push_str("---\n");
        text.push_str(&serde_yaml_ng::to_string(&object)?);
    }
    Ok(text)
}

/// Removes labels of Helm, the namespace (kustomize sets it), and the watched namespaces: without
/// them the operator watches its own.
fn release_from_release(object: &mut Value) -> Result<()> {
    unlabel(&mut object["metadata"])?;
    remove(&mut object["metadata"], "namespace");
    if object["kind"] == "RoleBinding" {
        for subject in object["subjects"].as_array_mut().into_iter().flatten() {
            remove(subject, "namespace");
        }
    }
    if object["kind"] == "Deployment" {
        let template = &mut object["spec"]["template"];
        unlabel(&mut template["metadata"])?;
        for container in template["spec"]["containers"]
            .as_array_mut()
            .context("containers")?
        {
            let variables = container["env"].as_array_mut().context("env")?;
            variables.retain(|variable| variable["name"] != "WATCH_NAMESPACES");
        }
    }
    Ok(())
}

fn unlabel(metadata: &mut Value) -> Result<()> {
    let labels = metadata["labels"].as_object_mut().context("labels")?;
    labels.retain(|key, _| key != "helm.sh/chart" && key != "app.kubernetes.io/managed-by");
    Ok(())
}

fn remove(object: &mut Value, key: &str) {
    if let Some(object) = object.as_object_mut() {
        object.remove(key);
    }
}
