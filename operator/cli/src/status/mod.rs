//! `kubectl layra status`: pipelines with their backlog, workers and conditions, once or as a live
//! view.

mod live;
mod row;
mod view;

use std::collections::BTreeSet;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use layra_crds::IngestionPipeline;

use crate::cluster::{Access, Cluster};
use crate::style::Style;
use row::Row;

/// Show pipelines: backlog, speed, workers, when the backlog is processed, and what is wrong.
///
/// LAG is the number of messages that are not processed yet. PAGES/S is what the ready workers can
/// do, by the speed that the operator has measured. REPLICAS is ready/wanted. ETA is when what waits
/// now is searchable, at this number of ready workers. Below the table is a line for each condition
/// that is not as it should be; of pipelines that are named, for each condition.
#[derive(Args)]
#[command(after_help = "\
Exit codes: 0 shown, whatever the state of the pipelines; 1 failure, for example no such pipeline;
2 wrong usage; 130 Ctrl-C ended --watch. `kubectl layra doctor` exits with 1 if something is wrong.

Colours only on a terminal, and not with the environment variable NO_COLOR.")]
pub(crate) struct StatusArgs {
    /// Names of pipelines. Default: all of the namespace.
    #[arg(value_name = "NAME")]
    pipelines: Vec<String>,

    /// The pipelines of all namespaces.
    #[arg(short = 'A', long, conflicts_with = "pipelines")]
    all_namespaces: bool,

    /// Keep it up to date: in place on a terminal, else a line for each change.
    #[arg(short, long)]
    watch: bool,

    /// Format of the output.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// A table.
    Table,
    /// A table with more columns: state, mode, arrivals, the oldest task, model and age.
    Wide,
    Json,
    Yaml,
}

pub(crate) async fn run(args: &StatusArgs, access: &Access) -> anyhow::Result<ExitCode> {
    if args.watch && matches!(args.output, Output::Json | Output::Yaml) {
        eprintln!("error: --watch shows tables: use -o table or -o wide");
        return Ok(ExitCode::from(2));
    }
    let cluster = Cluster::connect(access).await?;
    let rows = read(&cluster, args).await?;
    let style = Style::of_output();
    if args.watch {
        return live::run(&cluster, args, rows, style).await;
    }
    let text = match args.output {
        Output::Json => serde_json::to_string_pretty(&rows)? + "\n",
        Output::Yaml => serde_yaml_ng::to_string(&rows)?,
        Output::Table | Output::Wide if rows.is_empty() => nothing(&cluster, args),
        Output::Table | Output::Wide => view::lines(&rows, args.view(), style).join("\n") + "\n",
    };
    crate::print(&text)
}

impl StatusArgs {
    fn view(&self) -> view::View {
        view::View {
            wide: self.output == Output::Wide,
            namespaces: self.all_namespaces,
            all_conditions: !self.pipelines.is_empty(),
        }
    }
}

fn nothing(cluster: &Cluster, args: &StatusArgs) -> String {
    if args.all_namespaces {
        return "There are no pipelines.\n".to_owned();
    }
    let namespace = &cluster.namespace;
    format!("There are no pipelines in namespace {namespace}. -A shows those of all namespaces.\n")
}

/// The pipelines that were asked for, by namespace and name.
async fn read(cluster: &Cluster, args: &StatusArgs) -> anyhow::Result<Vec<Row>> {
    let api: Api<IngestionPipeline> = if args.all_namespaces {
        Api::all(cluster.client.clone())
    } else {
        cluster.api()
    };
    let resource = "ingestionpipelines.ingest.layra.io";
    let list = api.list(&ListParams::default()).await;
    let list = list.map_err(|error| {
        if args.all_namespaces {
            Cluster::refused_everywhere("list", resource, error)
        } else {
            cluster.refused("list", resource, error)
        }
    })?;
    let now = Timestamp::now();
    let wanted: BTreeSet<&String> = args.pipelines.iter().collect();
    let mut rows: Vec<Row> = list
        .iter()
        .filter(|pipeline| wanted.is_empty() || wanted.contains(&pipeline.name_any()))
        .map(|pipeline| Row::of(pipeline, now))
        .collect();
    rows.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    for name in wanted {
        if !rows.iter().any(|row| row.name == *name) {
            return Err(cluster.no_pipeline(name));
        }
    }
    Ok(rows)
}
