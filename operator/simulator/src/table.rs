//! The results as aligned text.

use std::fmt::Write as _;

use super::simulation::Outcome;

/// The figures, one line for each policy.
pub(super) fn outcomes(outcomes: &[Outcome]) -> String {
    let header = [
        "policy",
        "gpu_seconds",
        "seconds_over_target",
        "rescales",
        "max_lag_documents",
        "drained_at_second",
        "p95_wait_seconds",
        "peak_gpus",
    ];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for outcome in outcomes {
        let figures = &outcome.figures;
        let drained = figures.drained_at_second;
        rows.push(vec![
            outcome.policy.to_owned(),
            figures.gpu_seconds.to_string(),
            figures.seconds_over_target.to_string(),
            figures.rescales.to_string(),
            figures.max_lag_documents.to_string(),
            drained.map_or_else(|| "never".to_owned(), |second| second.to_string()),
            figures.p95_wait_seconds.to_string(),
            figures.peak_gpus.to_string(),
        ]);
    }
    aligned(&rows)
}

/// Columns of equal width: the first aligned to the left, the others to the right.
pub(super) fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (index, cell) in row.iter().enumerate() {
            // Writing to a string cannot fail.
            let _ = if index == 0 {
                write!(line, "{cell:<width$}", width = widths[index])
            } else {
                write!(line, "  {cell:>width$}", width = widths[index])
            };
        }
        text += line.trim_end();
        text += "\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let row = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        let text = aligned(&[row(["policy", "n"]), row(["a", "123"])]);
        assert_eq!(text, "policy    n\na       123\n");
    }
}
