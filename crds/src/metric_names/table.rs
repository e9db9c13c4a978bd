//! The table of all metrics in `docs/metrics.md`. The programs that register the metrics generate
//! it in a test; nothing here runs in production.

use std::fmt::Write as _;

/// In the column "seen": in every running system.
pub const ALWAYS: &str = "always";
/// In the column "seen": in every system that has processed a document.
pub const WITH_DOCUMENTS: &str = "with documents";
/// In the column "seen": in every pod that has answered a request.
const WITH_REQUESTS: &str = "after a request";

/// Metrics that a running system does not always have, and when it has them.
static SEEN: [(&str, &str); 28] = [
    ("gpu_memory_total_bytes", "above 0 with a GPU"),
    ("gpu_memory_usage_bytes", "above 0 with a GPU"),
    ("ingestion_dead_letters_total", "after a dead letter"),
    ("ingestion_documents_opened_total", WITH_DOCUMENTS),
    (
        "ingestion_pages_missing_glyphs_total",
        "after a page with letters that no font has",
    ),
    ("ingestion_pages_skipped_total", "after a bad page"),
    ("ingestion_quota_used_ratio", WITH_DOCUMENTS),
    ("ingestion_retries_total", "after a server was unavailable"),
    ("ingestion_store_duration_seconds", WITH_DOCUMENTS),
    (
        "layra_operator_reconcile_errors_total",
        "after a failed reconcile",
    ),
    (
        "layra_operator_deadline_seconds",
        "while there is a backlog",
    ),
    (
        "layra_operator_arriving_pages_per_second",
        "in mode Auto or Recommend, with a history of some minutes",
    ),
    ("layra_operator_drifted_collections", WITH_DOCUMENTS),
    ("layra_operator_rebuilding_collections", WITH_DOCUMENTS),
    ("layra_operator_applied_objects_total", WITH_DOCUMENTS),
    ("layra_operator_lost_records_total", WITH_DOCUMENTS),
    ("milvus_collection_entities", WITH_DOCUMENTS),
    ("milvus_entities", WITH_DOCUMENTS),
    ("kafka_consumer_lag", WITH_DOCUMENTS),
    ("layra_operator_desired_replicas", WITH_DOCUMENTS),
    ("layra_operator_ready_replicas", WITH_DOCUMENTS),
    ("layra_operator_pipeline_condition", WITH_DOCUMENTS),
    ("layra_operator_pipeline_reason", WITH_DOCUMENTS),
    ("ingestion_query_requests_total", WITH_REQUESTS),
    ("ingestion_query_duration_seconds", WITH_REQUESTS),
    ("ingestion_query_in_flight", WITH_REQUESTS),
    ("ingestion_query_stage_seconds", "after a search"),
    ("ingestion_query_cache_total", "after a search"),
];
/// The metrics of scaling decisions begin with one of these, besides those in [`SEEN`].
const OF_DECISIONS: [&str; 8] = [
    "layra_operator_backlog_",
    "layra_operator_scaling_",
    "layra_operator_worker_",
    "layra_operator_partitions_",
    "layra_operator_document_",
    "layra_operator_starting_",
    "layra_operator_stuck_",
    "layra_operator_waiting_",
];

/// One metric, as it is registered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Names of its labels.
    pub labels: Vec<String>,
    /// Its help text.
    pub help: String,
}

/// The table of these metrics, by name.
#[must_use]
pub fn table(mut rows: Vec<Row>) -> String {
    rows.sort();
    let mut text = String::from(
        "| metric | type | labels | unit | seen | meaning |\n|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let labels: Vec<String> = row.labels.iter().map(|it| format!("`{it}`")).collect();
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {} | {} | {} |",
            row.name,
            row.kind,
            labels.join(", "),
            unit(&row.name),
            seen(&row.name),
            row.help.replace('|', "\\|"),
        );
    }
    text
}

/// `document` with `table` between the two comments of this name. `None` if it has no such comments.
#[must_use]
pub fn with_table(document: &str, name: &str, table: &str) -> Option<String> {
    let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- end {name} -->"));
    let (before, rest) = document.split_once(&begin)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!("{before}{begin}{table}{end}{after}"))
}

/// The names that Rust's source of a list of names has: the values of its constants that look like
/// metrics.
pub fn names_in(source: &str) -> impl Iterator<Item = &str> {
    let values = source.split('"').skip(1).step_by(2);
    values.filter(|value| {
        let prefixes = [
            "conversion_",
            "embedding_",
            "gpu_",
            "ingestion_",
            "kafka_",
            "layra_",
            "milvus_",
        ];
        prefixes.iter().any(|prefix| value.starts_with(prefix))
    })
}

fn unit(name: &str) -> &'static str {
    let of_suffix = [
        ("_per_second", "pages/s"),
        ("_seconds", "s"),
        ("_seconds_total", "s"),
        ("_bytes", "bytes"),
        ("_bytes_total", "bytes"),
        ("_ratio", "1 = the limit"),
        ("_dpi", "dots per inch"),
        ("_tokens", "tokens"),
        ("_pages", "pages"),
        ("_pages_total", "pages"),
    ];
    of_suffix
        .iter()
        .find(|(suffix, _)| name.ends_with(suffix))
        .map_or("number", |(_, unit)| *unit)
}

fn seen(name: &str) -> &'static str {
    let known = SEEN.iter().find(|(metric, _)| *metric == name);
    match known.map(|(_, seen)| *seen) {
        Some(seen) => seen,
        None if OF_DECISIONS.iter().any(|start| name.starts_with(start)) => {
            "in mode Auto or Recommend"
        }
        None => ALWAYS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_replaces_the_one_before() {
        let row = Row {
            name: "ingestion_x_bytes".to_owned(),
            kind: "gauge",
            labels: vec!["a".to_owned(), "b".to_owned()],
            help: "Bytes | more.".to_owned(),
        };
        let table = table(vec![row]);
        let line =
            "| `ingestion_x_bytes` | gauge | `a`, `b` | bytes | always | Bytes \\| more. |\n";
        assert!(table.ends_with(line), "{table}");
        let document = "before\n<!-- worker -->\nold\n<!-- end worker -->\nafter\n";
        let new = with_table(document, "worker", &table).unwrap();
        assert_eq!(with_table(&new, "worker", "old\n").unwrap(), document);
        assert_eq!(with_table(document, "operator", &table), None);
    }

    #[test]
    fn names_are_the_texts_that_look_like_metrics() {
        let source = "const A: &str = \"ingestion_a\";\nconst B: &str = \"status\";";
        assert_eq!(names_in(source).collect::<Vec<_>>(), ["ingestion_a"]);
    }

    #[test]
    fn every_exception_is_of_a_metric() {
        let sources = [
            include_str!("worker.rs"),
            include_str!("operator.rs"),
            include_str!("query.rs"),
        ];
        for (name, _) in &SEEN {
            assert!(
                sources
                    .iter()
                    .any(|source| names_in(source).any(|it| it == *name)),
                "{name}"
            );
        }
    }
}
