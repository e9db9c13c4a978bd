//! `kubectl layra explain NAME`: the last scaling decision of a pipeline, from its status.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, ValueEnum};
use layra_crds::{IngestionPipeline, ScalingMode, ScalingStatus};
use serde::Serialize;

use crate::cluster::{Access, Cluster};

/// Show why a pipeline has its number of workers.
///
/// Prints the last scaling decision from the pipeline's status: the backlog that the operator
/// observed, the replicas that it requires, what limited them, and what the operator has learned
/// about the workers.
#[derive(Args)]
pub(crate) struct ExplainArgs {
    /// Name of the pipeline.
    pipeline: String,

    /// Format of the output.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    /// A table.
    Table,
    Json,
    Yaml,
}

/// The decision for machines. `scaling` is `status.scaling` of the object.
#[derive(Serialize)]
struct Explanation<'a> {
    namespace: &'a str,
    name: &'a str,
    mode: ScalingMode,
    scaling: &'a ScalingStatus,
}

pub(crate) async fn run(args: &ExplainArgs, access: &Access) -> anyhow::Result<ExitCode> {
    let cluster = Cluster::connect(access).await?;
    let (namespace, name) = (&cluster.namespace, &args.pipeline);
    let pipeline = cluster.pipeline(name).await?;
    let Some(scaling) = decision(&pipeline) else {
        bail!(
            "IngestionPipeline {name} in namespace {namespace} has no scaling decision yet: is the \
             operator running and does it watch this namespace? \
             `kubectl -n {namespace} describe ipl {name}` shows the conditions"
        );
    };
    let mode = pipeline.spec.scaling.mode;
    let explanation = Explanation {
        namespace,
        name,
        mode,
        scaling,
    };
    crate::print(&match args.output {
        Output::Table => table(scaling, mode),
        Output::Json => serde_json::to_string_pretty(&explanation)? + "\n",
        Output::Yaml => serde_yaml_ng::to_string(&explanation)?,
    })
}

fn decision(pipeline: &IngestionPipeline) -> Option<&ScalingStatus> {
    pipeline.status.as_ref()?.scaling.as_ref()
}

fn table(scaling: &ScalingStatus, mode: ScalingMode) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{}\n", scaling.message);
    for (title, rows) in [
        ("decision", decision_rows(scaling, mode)),
        ("observed", observed_rows(scaling)),
        ("required replicas", required_rows(scaling)),
        ("learned about the workers", learned_rows(scaling)),
    ] {
        if rows.is_empty() {
            continue;
        }
        let _ = writeln!(text, "{title}");
        for (name, value) in rows {
            let _ = writeln!(text, "  {name:<38}{value}");
        }
    }
    text
}

type Rows = Vec<(&'static str, String)>;

fn decision_rows(scaling: &ScalingStatus, mode: ScalingMode) -> Rows {
    let mode = match mode {
        ScalingMode::Auto => "Auto",
        ScalingMode::Recommend => "Recommend (nothing is changed)",
        ScalingMode::Manual => "Manual",
    };
    let mut rows = vec![
        ("desired replicas", scaling.desired_replicas.to_string()),
        ("reason", scaling.reason.clone()),
        ("mode", mode.to_owned()),
    ];
    if !scaling.limits.is_empty() {
        rows.push(("limits", scaling.limits.join(", ")));
    }
    if !scaling.stuck_partitions.is_empty() {
        rows.push(("stuck partitions", scaling.stuck_partitions.join(", ")));
    }
    if let Some(rechecks) = scaling.open_rechecks {
        rows.push(("rechecks within 15 minutes", rechecks.to_string()));
    }
    if let Some(time) = &scaling.last_scale_time {
        rows.push(("last change", time.0.to_string()));
    }
    rows
}

fn observed_rows(scaling: &ScalingStatus) -> Rows {
    let Some(inputs) = &scaling.inputs else {
        return Vec::new();
    };
    vec![
        ("backlog, documents", shown(inputs.documents)),
        ("backlog, page ranges", shown(inputs.ranges)),
        ("backlog, pages (estimate)", shown(inputs.pages)),
        ("age of the oldest task (s)", shown(inputs.oldest_seconds)),
        (
            "arrivals (pages per second)",
            shown(inputs.arriving_pages_per_second),
        ),
        ("partitions", shown(inputs.partitions)),
        (
            "partitions with a backlog",
            shown(inputs.partitions_with_work),
        ),
        (
            "workers ready/starting/pending",
            format!(
                "{}/{}/{}",
                inputs.ready_workers, inputs.starting_workers, inputs.waiting_workers
            ),
        ),
    ]
}

fn required_rows(scaling: &ScalingStatus) -> Rows {
    let Some(terms) = &scaling.terms else {
        return Vec::new();
    };
    vec![
        ("to keep up with arrivals", terms.for_arrivals.to_string()),
        (
            "to drain the backlog in time",
            terms.for_backlog.to_string(),
        ),
        (
            "before scaling down, with a reserve",
            terms.to_scale_down.to_string(),
        ),
        ("minimum", terms.floor.to_string()),
        ("maximum", terms.ceiling.to_string()),
        (
            "highest in the scale-down delay",
            format!("{} ({} s)", shown(terms.window), terms.window_seconds),
        ),
    ]
}

fn learned_rows(scaling: &ScalingStatus) -> Rows {
    let Some(learned) = &scaling.learned else {
        return Vec::new();
    };
    vec![
        (
            "pages per second of one worker",
            learned.pages_per_second.to_string(),
        ),
        ("pages per document", learned.pages_per_document.to_string()),
        (
            "time until placed on a node (s)",
            learned.provisioning_seconds.to_string(),
        ),
        ("start-up time (s)", learned.startup_seconds.to_string()),
        ("longest task (s)", learned.longest_work_seconds.to_string()),
    ]
}

fn shown<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "unknown".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use layra_crds::{LearnedStatus, ScalingInputs, ScalingTerms};

    use super::*;

    #[test]
    fn a_table_has_the_decision_with_its_inputs_requirements_and_limits() {
        let scaling = ScalingStatus {
            desired_replicas: 4,
            reason: "Draining".into(),
            message: "60 documents in the backlog: from 1 to 4 workers.".into(),
            limits: vec!["MaxReplicas".into()],
            inputs: Some(ScalingInputs {
                documents: Some(60),
                pages: Some(600.5),
                ready_workers: 1,
                ..ScalingInputs::default()
            }),
            terms: Some(ScalingTerms {
                for_backlog: 6,
                ceiling: 4,
                window_seconds: 30,
                ..ScalingTerms::default()
            }),
            learned: Some(LearnedStatus {
                pages_per_second: 2.5,
                ..LearnedStatus::default()
            }),
            ..ScalingStatus::default()
        };
        insta::assert_snapshot!(table(&scaling, ScalingMode::Auto));
    }
}
