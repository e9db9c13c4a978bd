//! `kubectl layra pause NAME` and `resume NAME`: `spec.paused`, or no workers at all.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use layra_crds::{IngestionPipeline, ScalingMode};
use serde_json::{Value, json};

use crate::cluster::{Access, Cluster};

/// The mode, and in mode `Manual` the number of workers, before `pause --stop-workers`.
const STOPPED: &str = "ingest.layra.io/mode-before-pause";

/// Pause a pipeline: the operator changes nothing of it.
///
/// Sets `spec.paused`. The workers that run go on with the messages of the topic; none is added,
/// removed or replaced, and new messages wait if there is no worker.
///
/// With --stop-workers the workers end: the mode becomes Manual, with 0 workers. They finish or
/// release what they work on. Messages then wait in Kafka for `resume`, as long as the topic keeps
/// them. Nothing is lost in either way.
#[derive(Args)]
#[command(after_help = "\
Exit codes: 0 done, or it was so already; 1 failure; 2 wrong usage.")]
pub(crate) struct PauseArgs {
    /// Name of the pipeline.
    pipeline: String,

    /// Also stop the workers.
    #[arg(long)]
    stop_workers: bool,
}

/// Undo `pause`.
///
/// Removes `spec.paused`. If the workers were stopped, the mode and the number of workers become
/// those of before, and the messages that wait are processed.
#[derive(Args)]
#[command(after_help = "\
Exit codes: 0 done, or it was so already; 1 failure; 2 wrong usage.")]
pub(crate) struct ResumeArgs {
    /// Name of the pipeline.
    pipeline: String,
}

/// Whether `pause --stop-workers` has stopped its workers.
pub(crate) fn is_stopped(pipeline: &IngestionPipeline) -> bool {
    pipeline.annotations().contains_key(STOPPED)
}

pub(crate) async fn pause(args: &PauseArgs, access: &Access) -> anyhow::Result<ExitCode> {
    let cluster = Cluster::connect(access).await?;
    let name = &args.pipeline;
    let pipeline = cluster.pipeline(name).await?;
    let namespace = &cluster.namespace;
    let resume = format!("`kubectl layra resume {name} -n {namespace}`");
    if args.stop_workers {
        if pipeline.spec.paused {
            bail!("{name} is paused, so the operator would not stop its workers: first {resume}");
        }
        if is_stopped(&pipeline) {
            return crate::print(&format!("The workers of {name} are stopped already.\n"));
        }
        apply(&cluster, &pipeline, &stopping(&pipeline)).await?;
        return crate::print(&format!(
            "The workers of {name} stop: they finish or release what they work on. Messages wait in \
             Kafka, as long as the topic keeps them, until {resume}.\n"
        ));
    }
    if pipeline.spec.paused {
        return crate::print(&format!("{name} is paused already.\n"));
    }
    apply(&cluster, &pipeline, &json!({"spec": {"paused": true}})).await?;
    let status = pipeline.status.as_ref();
    let workers = status.and_then(|status| status.replicas).unwrap_or(0);
    let messages = match workers {
        0 => {
            "It has no workers: messages wait in Kafka, as long as the topic keeps them".to_owned()
        }
        1 => "Its worker goes on with the messages, and nothing is lost".to_owned(),
        _ => format!("Its {workers} workers go on with the messages, and nothing is lost"),
    };
    crate::print(&format!(
        "{name} is paused: the operator changes nothing of it. {messages}, until {resume}.\n"
    ))
}

pub(crate) async fn resume(args: &ResumeArgs, access: &Access) -> anyhow::Result<ExitCode> {
    let cluster = Cluster::connect(access).await?;
    let name = &args.pipeline;
    let pipeline = cluster.pipeline(name).await?;
    let Some(patch) = resuming(&pipeline) else {
        return crate::print(&format!("{name} is not paused.\n"));
    };
    apply(&cluster, &pipeline, &patch).await?;
    let mode = match patch["spec"]["scaling"]["mode"].as_str() {
        Some(mode) => format!(" The mode is {mode} again."),
        None => String::new(),
    };
    crate::print(&format!(
        "{name} goes on: messages that wait are processed.{mode}\n"
    ))
}

fn stopping(pipeline: &IngestionPipeline) -> Value {
    let scaling = &pipeline.spec.scaling;
    let before = match (scaling.mode, scaling.replicas) {
        (ScalingMode::Auto, _) => "Auto".to_owned(),
        (ScalingMode::Recommend, _) => "Recommend".to_owned(),
        (ScalingMode::Manual, Some(replicas)) => format!("Manual {replicas}"),
        (ScalingMode::Manual, None) => "Manual".to_owned(),
    };
    json!({
        "metadata": {"annotations": {STOPPED: before}},
        "spec": {"scaling": {"mode": "Manual", "replicas": 0}},
    })
}

/// `None`: it is neither paused nor stopped.
fn resuming(pipeline: &IngestionPipeline) -> Option<Value> {
    let before = pipeline.annotations().get(STOPPED);
    let mut patch = json!({});
    if pipeline.spec.paused {
        patch["spec"]["paused"] = json!(false);
    }
    if let Some(before) = before {
        let (mode, replicas) = before.split_once(' ').unwrap_or((before.as_str(), ""));
        let replicas: Option<i32> = replicas.parse().ok();
        patch["metadata"]["annotations"] = json!({STOPPED: null});
        let is_still_stopped = pipeline.spec.scaling.mode == ScalingMode::Manual
            && pipeline.spec.scaling.replicas == Some(0);
        // What somebody has set meanwhile stays.
        if is_still_stopped {
            patch["spec"]["scaling"] = json!({"mode": mode, "replicas": replicas});
        }
    }
    patch
        .as_object()
        .is_some_and(|patch| !patch.is_empty())
        .then_some(patch)
}

async fn apply(
    cluster: &Cluster,
    pipeline: &IngestionPipeline,
    patch: &Value,
) -> anyhow::Result<()> {
    let mut patch = patch.clone();
    // Not another one of this name, and not over an edit of somebody else.
    patch["metadata"]["uid"] = json!(pipeline.metadata.uid);
    patch["metadata"]["resourceVersion"] = json!(pipeline.metadata.resource_version);
    let name = pipeline.name_any();
    cluster
        .api::<IngestionPipeline>()
        .patch(&name, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .map_err(|error| cluster.refused("patch", "ingestionpipelines.ingest.layra.io", error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = include_str!("../../../docs/examples/minimal.yaml");

    fn pipeline(scaling: &Value, before: Option<&str>) -> IngestionPipeline {
        let mut pipeline: IngestionPipeline = serde_yaml_ng::from_str(MINIMAL).unwrap();
        pipeline.spec.scaling = serde_json::from_value(scaling.clone()).unwrap();
        if let Some(before) = before {
            let annotations = pipeline.annotations_mut();
            annotations.insert(STOPPED.to_owned(), before.to_owned());
        }
        pipeline
    }

    #[test]
    fn a_stop_is_undone_to_what_was_before() {
        let stopped = json!({"mode": "Manual", "replicas": 0});
        for (before, annotation, after) in [
            (json!({}), "Auto", json!({"mode": "Auto", "replicas": null})),
            (
                json!({"mode": "Recommend"}),
                "Recommend",
                json!({"mode": "Recommend", "replicas": null}),
            ),
            (
                json!({"mode": "Manual", "replicas": 3}),
                "Manual 3",
                json!({"mode": "Manual", "replicas": 3}),
            ),
        ] {
            let patch = stopping(&pipeline(&before, None));
            assert_eq!(patch["metadata"]["annotations"][STOPPED], annotation);
            assert_eq!(patch["spec"]["scaling"], stopped);
            let patch = resuming(&pipeline(&stopped, Some(annotation))).unwrap();
            assert_eq!(patch["spec"], json!({"scaling": after}));
            assert_eq!(patch["metadata"]["annotations"], json!({STOPPED: null}));
        }
    }

    #[test]
    fn what_somebody_has_set_meanwhile_stays() {
        let manual = json!({"mode": "Manual", "replicas": 2});
        let patch = resuming(&pipeline(&manual, Some("Auto"))).unwrap();
        assert_eq!(patch, json!({"metadata": {"annotations": {STOPPED: null}}}));
        assert_eq!(resuming(&pipeline(&manual, None)), None);
    }
}
