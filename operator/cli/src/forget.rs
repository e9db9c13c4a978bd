//! `kubectl layra forget NAME`: makes the operator forget what it has learned about the workers.

use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use layra_crds::{FORGET_ANNOTATION, IngestionPipeline};
use serde_json::json;

use crate::cluster::{Access, Cluster};

/// Make the operator forget what it has learned about the workers of a pipeline.
///
/// The speed of a worker, the size of documents, the times until nodes and workers are ready and
/// the longest work are then assumed again, until they are measured: after a change that makes them
/// wrong, for example another GPU. No worker is restarted. The number of workers may change, since
/// it is computed from these values.
///
/// Sets the annotation `ingest.layra.io/forget-learned` of the pipeline to the current time. The
/// operator notices it at once, and acknowledges it in `status.scaling.forgotten`.
#[derive(Args)]
pub(crate) struct ForgetArgs {
    /// Name of the pipeline.
    pipeline: String,
}

pub(crate) async fn run(args: &ForgetArgs, access: &Access) -> anyhow::Result<ExitCode> {
    let cluster = Cluster::connect(access).await?;
    let name = &args.pipeline;
    let pipeline = cluster.pipeline(name).await?;
    let now = Timestamp::now().to_string();
    let patch = json!({"metadata": {
        "annotations": {FORGET_ANNOTATION: now},
        // Not another one of this name.
        "uid": pipeline.metadata.uid,
    }});
    cluster
        .api::<IngestionPipeline>()
        .patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .map_err(|error| cluster.refused("patch", "ingestionpipelines.ingest.layra.io", error))?;
    crate::print(&format!(
        "The operator is asked to forget what it has learned about the workers of {name}.\n"
    ))
}
