//! `kubectl layra doctor`: what is wrong and what to do. It only reads.

mod events;
mod finding;
mod installation;
mod object;
mod pods;
mod read;
mod references;
mod report;
mod room;

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, ValueEnum};
use kube::api::ListParams;
use kube::{CustomResourceExt as _, ResourceExt};
use layra_crds::IngestionPipeline;

use crate::cluster::{Access, Cluster};
use crate::style::Style;
use finding::{Finding, Seen};
use read::Reader;
use report::{OfPipeline, Report};

pub(crate) use room::number as amount;

/// The exit code when something is wrong.
const FOUND: u8 = 1;
/// The exit code when it could not look.
pub(crate) const CANNOT_LOOK: u8 = 2;

/// Find out what is wrong, and what to do.
///
/// Looks at the conditions of the pipelines, their pods, each Secret, ConfigMap and key that they
/// name, the warning events of the last hour, the quotas of the namespace, the operator and the
/// versions. It changes nothing. What you may not read is listed at the end.
#[derive(Args)]
#[command(after_help = "\
Exit codes: 0 nothing is wrong in what could be read; 1 a problem or a warning was found; 2 it could
not look (no such pipeline, no access, wrong usage). Notes do not count.

Colours only on a terminal, and not with the environment variable NO_COLOR.")]
pub(crate) struct DoctorArgs {
    /// Name of the pipeline. Default: all of the namespace.
    #[arg(value_name = "NAME")]
    pipeline: Option<String>,

    /// Format of the output.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    /// Sentences for people.
    Table,
    Json,
    Yaml,
}

pub(crate) async fn run(args: &DoctorArgs, access: &Access) -> anyhow::Result<ExitCode> {
    let cluster = Cluster::connect(access).await?;
    let pipelines = pipelines(&cluster, args.pipeline.as_deref()).await?;
    let report = Box::pin(look(&cluster, pipelines)).await?;
    crate::print(&match args.output {
        Output::Table => report.text(Style::of_output()),
        Output::Json => serde_json::to_string_pretty(&report)? + "\n",
        Output::Yaml => serde_yaml_ng::to_string(&report)?,
    })?;
    Ok(if report.has_findings() {
        ExitCode::from(FOUND)
    } else {
        ExitCode::SUCCESS
    })
}

/// Problems and warnings of a pipeline and the installation, in words.
pub(crate) async fn concerns(cluster: &Cluster, name: &str) -> anyhow::Result<Vec<String>> {
    let pipelines = vec![cluster.pipeline(name).await?];
    let report = Box::pin(look(cluster, pipelines)).await?;
    Ok(report.concerns())
}

async fn pipelines(
    cluster: &Cluster,
    name: Option<&str>,
) -> anyhow::Result<Vec<IngestionPipeline>> {
    if let Some(name) = name {
        return Ok(vec![cluster.pipeline(name).await?]);
    }
    let list = cluster.api::<IngestionPipeline>();
    let list = list.list(&ListParams::default()).await;
    let resource = "ingestionpipelines.ingest.layra.io";
    let list = list.map_err(|error| cluster.refused("list", resource, error))?;
    if list.items.is_empty() {
        bail!(
            "there are no pipelines in namespace {}; `kubectl layra status -A` shows those of all \
             namespaces",
            cluster.namespace
        );
    }
    Ok(list.items)
}

async fn look(cluster: &Cluster, pipelines: Vec<IngestionPipeline>) -> anyhow::Result<Report> {
    let mut reader = Reader {
        cluster,
        not_read: BTreeSet::new(),
    };
    let installation = reader.installation().await?;
    let own_fields = installation::fields(&serde_json::to_value(IngestionPipeline::crd())?);
    let mut report = Report {
        namespace: cluster.namespace.clone(),
        installation: installation::check(&installation, &own_fields),
        ..Report::default()
    };
    for pipeline in pipelines {
        let name = pipeline.name_any();
        let seen = Box::pin(reader.pipeline(pipeline, &installation)).await?;
        let findings = check(&seen);
        report.pipelines.push(OfPipeline { name, findings });
    }
    report.not_read = reader.not_read.into_iter().collect();
    report.sort();
    Ok(report)
}

/// Everything that is wrong with a pipeline. Pure.
fn check(seen: &Seen) -> Vec<Finding> {
    [
        object::check(seen),
        references::check(seen),
        pods::check(seen),
        room::check(seen),
        installation::check_images(seen),
        events::check(seen),
    ]
    .concat()
}

#[cfg(test)]
#[path = "doctor_tests.rs"]
mod tests;
