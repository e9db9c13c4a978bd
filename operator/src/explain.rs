//! `layra-operator explain NAMESPACE/NAME`: the last scaling decision of a pipeline, read from its
//! status and told as a table.

use std::fmt::Write as _;

use anyhow::{Context as _, bail};
use kube::{Api, Client};
use layra_crds::{IngestionPipeline, ScalingMode, ScalingStatus};

/// Reads the pipeline from the cluster and prints the explanation.
pub(crate) async fn explain(name: &str) -> anyhow::Result<()> {
    let client = Client::try_default()
        .await
        .context("no access to a Kubernetes API server")?;
    let (namespace, name) = match name.split_once('/') {
        Some((namespace, name)) => (namespace.to_owned(), name),
        None => (client.default_namespace().to_owned(), name),
    };
    let api: Api<IngestionPipeline> = Api::namespaced(client, &namespace);
    let Some(pipeline) = api
        .get_opt(name)
        .await
        .with_context(|| format!("{namespace}/{name} cannot be read"))?
    else {
        bail!("there is no IngestionPipeline {name} in namespace {namespace}");
    };
    let Some(text) = table(&pipeline) else {
        bail!("{namespace}/{name} has no scaling decision yet: is the operator running?");
    };
    print!("{text}");
    Ok(())
}

/// The explanation; `None` before the first decision.
fn table(pipeline: &IngestionPipeline) -> Option<String> {
    let status = pipeline.status.as_ref()?;
    let scaling = status.scaling.as_ref()?;
    let mode = match pipeline.spec.scaling.mode {
        ScalingMode::Auto => "Auto",
        ScalingMode::Recommend => "Recommend (nothing is changed)",
        ScalingMode::Manual => "Manual",
    };
    let mut text = String::new();
    let _ = writeln!(text, "{}\n", scaling.message);
    for (title, rows) in [
        ("decision", decision_rows(scaling, mode)),
        ("seen", input_rows(scaling)),
        ("terms, in workers", term_rows(scaling)),
        ("known of the workers", learned_rows(scaling)),
    ] {
        if rows.is_empty() {
            continue;
        }
        let _ = writeln!(text, "{title}");
        for (name, value) in rows {
            let _ = writeln!(text, "  {name:<34}{value}");
        }
    }
    Some(text)
}

type Rows = Vec<(&'static str, String)>;

fn decision_rows(scaling: &ScalingStatus, mode: &str) -> Rows {
    let mut rows = vec![
        ("workers asked for", scaling.desired_replicas.to_string()),
        ("reason", scaling.reason.clone()),
        ("mode", mode.to_owned()),
    ];
    if !scaling.limits.is_empty() {
        rows.push(("limits", scaling.limits.join(", ")));
    }
    if !scaling.stuck_partitions.is_empty() {
        rows.push(("stuck partitions", scaling.stuck_partitions.join(", ")));
    }
    if let Some(time) = &scaling.last_scale_time {
        rows.push(("last change", time.0.to_string()));
    }
    rows
}

fn input_rows(scaling: &ScalingStatus) -> Rows {
    let Some(inputs) = &scaling.inputs else {
        return Vec::new();
    };
    vec![
        ("documents not done", shown(inputs.documents)),
        ("ranges of pages not done", shown(inputs.ranges)),
        ("pages of both, about", shown(inputs.pages)),
        (
            "seconds that the oldest waits",
            shown(inputs.oldest_seconds),
        ),
        (
            "pages arriving a second",
            shown(inputs.arriving_pages_per_second),
        ),
        ("partitions", shown(inputs.partitions)),
        ("partitions with work", shown(inputs.partitions_with_work)),
        (
            "workers ready/starting/waiting",
            format!(
                "{}/{}/{}",
                inputs.ready_workers, inputs.starting_workers, inputs.waiting_workers
            ),
        ),
    ]
}

fn term_rows(scaling: &ScalingStatus) -> Rows {
    let Some(terms) = &scaling.terms else {
        return Vec::new();
    };
    vec![
        ("to keep up with arrivals", terms.for_arrivals.to_string()),
        (
            "to drain the backlog in time",
            terms.for_backlog.to_string(),
        ),
        ("the same, a tenth in hand", terms.to_scale_down.to_string()),
        ("floor", terms.floor.to_string()),
        ("ceiling", terms.ceiling.to_string()),
        (
            "most wanted in the delay",
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
            "pages a second of one",
            learned.pages_per_second.to_string(),
        ),
        (
            "pages of a document",
            learned.pages_per_document.to_string(),
        ),
        ("seconds to start", learned.startup_seconds.to_string()),
        (
            "seconds of the longest work",
            learned.longest_work_seconds.to_string(),
        ),
    ]
}

fn shown<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "unknown".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use layra_crds::{IngestionPipelineStatus, LearnedStatus, ScalingInputs, ScalingTerms};

    use super::*;
    use crate::fixtures;

    #[test]
    fn a_decision_is_told_with_its_inputs_terms_and_limits() {
        let mut pipeline = fixtures::pipeline();
        assert_eq!(table(&pipeline), None);
        pipeline.status = Some(IngestionPipelineStatus {
            scaling: Some(ScalingStatus {
                desired_replicas: 4,
                reason: "Draining".into(),
                message: "60 documents wait: 1 to 4 workers.".into(),
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
            }),
            ..IngestionPipelineStatus::default()
        });
        insta::assert_snapshot!(table(&pipeline).unwrap());
    }
}
