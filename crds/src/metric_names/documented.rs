//! Compares `docs/metrics.md` with what a program serves. For the tests of the programs; nothing here
//! runs in production.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::table::{self, Row};

/// The programs, as their tables are marked, and the source of their names.
const PROGRAMS: [(&str, &str); 3] = [
    ("worker", include_str!("worker.rs")),
    ("operator", include_str!("operator.rs")),
    ("query", include_str!("query.rs")),
];

/// Tests of one program run at the same time.
static FILE: Mutex<()> = Mutex::new(());

/// Compares the table of a program with `served`, its metrics in Prometheus' text format, in which
/// each has a series. With the environment variable `UPDATE_METRICS` it writes the table instead.
///
/// # Errors
/// If a name of the program has no series, or if the table is stale.
pub fn check(program: &str, served: &str) -> Result<(), String> {
    let found = PROGRAMS.iter().find(|(name, _)| *name == program);
    let (_, names) = found.ok_or_else(|| format!("{program} has no names"))?;
    let names: Vec<&str> = table::names_in(names).collect();
    let mut rows = rows(served);
    let missing: Vec<&&str> = names
        .iter()
        .filter(|name| !rows.iter().any(|row| row.name == **name))
        .collect();
    if !missing.is_empty() {
        return Err(format!("not registered, or without a series: {missing:?}"));
    }
    // A program may have metrics of another one, which are in its table.
    rows.retain(|row| names.contains(&row.name.as_str()));

    let _alone = FILE.lock().unwrap_or_else(PoisonError::into_inner);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let read = |error| format!("{}: {error}", path.display());
    let stored = std::fs::read_to_string(&path).map_err(read)?;
    let fresh = table::with_table(&stored, program, &table::table(rows));
    let fresh = fresh.ok_or_else(|| format!("docs/metrics.md has no table of the {program}"))?;
    if std::env::var_os("UPDATE_METRICS").is_some() {
        return std::fs::write(&path, &fresh).map_err(read);
    }
    if stored != fresh {
        let command =
            "UPDATE_METRICS=1 cargo test --workspace --lib --bins -- the_table_of_metrics";
        return Err(format!("docs/metrics.md is stale: run `{command}`"));
    }
    Ok(())
}

/// The metrics of a text in Prometheus' format.
#[must_use]
pub fn rows(served: &str) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for line in served.lines() {
        if let Some((name, help)) = rest(line, "# HELP ") {
            rows.push(Row {
                name: name.to_owned(),
                kind: "gauge",
                labels: Vec::new(),
                help: help.to_owned(),
            });
        } else if let Some(row) = rows.last_mut() {
            match rest(line, "# TYPE ") {
                Some((_, "counter")) => row.kind = "counter",
                Some((_, "histogram")) => row.kind = "histogram",
                Some(_) => {}
                None => row.labels.extend(labels(line)),
            }
        }
    }
    for row in &mut rows {
        // Each histogram has it.
        row.labels.retain(|label| label != "le");
        row.labels.sort();
        row.labels.dedup();
    }
    rows
}

/// Name and rest of a comment.
fn rest<'a>(line: &'a str, comment: &str) -> Option<(&'a str, &'a str)> {
    line.strip_prefix(comment)?.split_once(' ')
}

/// The names of the labels of a sample: what stands between its quoted values.
fn labels(sample: &str) -> impl Iterator<Item = String> {
    let labels = sample
        .split_once('{')
        .and_then(|(_, it)| it.rsplit_once('}'));
    let names = labels
        .map_or("", |(labels, _)| labels)
        .split('"')
        .step_by(2);
    names
        .map(|name| name.trim_matches([',', '=']).to_owned())
        .filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVED: &str = "\
# HELP ingestion_x_bytes Bytes of x.
# TYPE ingestion_x_bytes gauge
ingestion_x_bytes{pipeline=\"a\",topic=\"t, u\"} 1
ingestion_x_bytes{pipeline=\"b\",topic=\"\"} 1
# HELP ingestion_y_seconds Time of y.
# TYPE ingestion_y_seconds histogram
ingestion_y_seconds_bucket{store=\"milvus\",le=\"0.5\"} 0
ingestion_y_seconds_bucket{store=\"milvus\",le=\"+Inf\"} 0
ingestion_y_seconds_sum{store=\"milvus\"} 0
# HELP ingestion_z_total Things.
# TYPE ingestion_z_total counter
ingestion_z_total 7
";

    #[test]
    fn a_served_metric_is_a_row_with_the_labels_of_its_series() {
        let row = |name: &str, kind, labels: &[&str], help: &str| Row {
            name: name.to_owned(),
            kind,
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
            help: help.to_owned(),
        };
        assert_eq!(
            rows(SERVED),
            [
                row(
                    "ingestion_x_bytes",
                    "gauge",
                    &["pipeline", "topic"],
                    "Bytes of x."
                ),
                row("ingestion_y_seconds", "histogram", &["store"], "Time of y."),
                row("ingestion_z_total", "counter", &[], "Things."),
            ]
        );
    }

    #[test]
    fn a_metric_without_a_series_is_noticed() {
        let error = check("worker", SERVED).unwrap_err();
        assert!(error.contains("ingestion_pages_total"), "{error}");
    }
}
