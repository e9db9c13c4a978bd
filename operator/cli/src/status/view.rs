//! Rows as lines for people. Pure.

use std::fmt::Write as _;

use layra_crds::ScalingMode;

use super::row::{Eta, Row, State};
use crate::conditions::{Concern, InWords, to_attend};
use crate::style::{Cell, Colour, Style, table};

/// What is shown.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct View {
    pub(super) wide: bool,
    pub(super) namespaces: bool,
    /// Also of conditions that are as they should be.
    pub(super) all_conditions: bool,
}

/// The table, and the conditions below it.
pub(super) fn lines(rows: &[Row], view: View, style: Style) -> Vec<String> {
    let cells: Vec<Vec<Cell>> = rows.iter().map(|row| cells(row, view)).collect();
    let mut lines = table(&titles(view), &cells, style);
    for row in rows {
        let shown: Vec<&InWords> = if view.all_conditions {
            row.conditions.iter().collect()
        } else {
            to_attend(&row.conditions)
        };
        if shown.is_empty() && row.state != State::Unseen {
            continue;
        }
        let name = if view.namespaces {
            format!("{}/{}", row.namespace, row.name)
        } else {
            row.name.clone()
        };
        lines.push(String::new());
        lines.push(style.paint(Some(Colour::Bold), &name));
        if row.state == State::Unseen {
            let words = "No operator has seen it: is one running, and does it watch this namespace? \
                         `kubectl layra doctor` finds out.";
            lines.push(format!("  {}", style.wrap(words, 2)));
        }
        let width = shown.iter().map(|one| one.words.chars().count()).max();
        let width = width.unwrap_or(0);
        for one in shown {
            let words = format!("{:<width$}", one.words);
            let words = style.paint(colour(one.concern), &words);
            let text = format!("{}: {}", one.reason, one.message);
            let text = style.wrap(&text, width + 4);
            lines.push(format!("  {words}  {text}"));
        }
    }
    lines
}

fn titles(view: View) -> Vec<&'static str> {
    let mut titles = vec!["NAME", "STATE", ">LAG", ">PAGES/S", ">REPLICAS", ">ETA"];
    if view.namespaces {
        titles.insert(0, "NAMESPACE");
    }
    if view.wide {
        titles.extend(["MODE", ">ARRIVING/S", ">OLDEST", "MODEL", ">AGE"]);
    }
    titles
}

fn cells(row: &Row, view: View) -> Vec<Cell> {
    let mut cells = vec![
        row.name.as_str().into(),
        state(row),
        lag(row).into(),
        rate(row.pages_per_second).into(),
        replicas(row),
        eta(row.eta),
    ];
    if view.namespaces {
        cells.insert(0, row.namespace.as_str().into());
    }
    if view.wide {
        let mode = match row.mode {
            ScalingMode::Auto => "Auto",
            ScalingMode::Recommend => "Recommend",
            ScalingMode::Manual => "Manual",
        };
        let oldest = row.oldest_seconds.map(whole);
        let age = row.age_seconds.and_then(|age| u64::try_from(age).ok());
        cells.extend([
            mode.into(),
            rate(row.arriving_pages_per_second).into(),
            oldest.map_or_else(|| "-".to_owned(), duration).into(),
            row.model.as_str().into(),
            age.map_or_else(|| "-".to_owned(), duration).into(),
        ]);
    }
    cells
}

/// A row without a table, for a log.
pub(super) fn line(row: &Row) -> String {
    let mut line = format!(
        "{}/{}: {}, lag {}, {} pages/s, replicas {}, ETA {}",
        row.namespace,
        row.name,
        row.state.words(),
        lag(row),
        rate(row.pages_per_second),
        replicas(row).text,
        eta(row.eta).text,
    );
    for one in to_attend(&row.conditions) {
        let _ = write!(line, "; {} ({})", one.words, one.reason);
    }
    line
}

fn colour(concern: Concern) -> Option<Colour> {
    match concern {
        Concern::Fine => Some(Colour::Green),
        Concern::Progress => None,
        Concern::Warning => Some(Colour::Yellow),
        Concern::Problem => Some(Colour::Red),
    }
}

fn state(row: &Row) -> Cell {
    let worse = row.concern() > Concern::Progress;
    let colour = match row.state {
        State::Ready if !worse => Some(Colour::Green),
        State::Ready | State::Paused | State::Stopped => Some(Colour::Yellow),
        State::InProgress | State::Deleting => None,
        State::NotReady | State::Stalled | State::Unseen => Some(Colour::Red),
    };
    let text = row.state.words().to_owned();
    Cell { text, colour }
}

fn lag(row: &Row) -> String {
    match row.lag {
        Some(lag) if row.lag_is_lower_bound => format!("{lag}+"),
        Some(lag) => lag.to_string(),
        None => "unknown".to_owned(),
    }
}

fn rate(rate: Option<f64>) -> String {
    match rate {
        Some(rate) if rate >= 100.0 => format!("{rate:.0}"),
        Some(rate) => format!("{rate:.1}"),
        None => "-".to_owned(),
    }
}

fn replicas(row: &Row) -> Cell {
    let wanted = row.wanted_replicas;
    let text = wanted.map_or_else(|| "?".to_owned(), |wanted| wanted.to_string());
    let text = format!("{}/{text}", row.ready_replicas);
    if wanted.is_some_and(|wanted| row.ready_replicas < wanted) {
        return Cell::painted(text, Colour::Yellow);
    }
    text.into()
}

fn eta(eta: Eta) -> Cell {
    match eta {
        Eta::Nothing => "-".into(),
        Eta::Known { eta_seconds } => duration(eta_seconds).into(),
        Eta::NoWorker => Cell::painted("no worker", Colour::Yellow),
        Eta::Unknown => "unknown".into(),
    }
}

/// Seconds without their fraction. Saturates.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn whole(seconds: f64) -> u64 {
    seconds as u64
}

/// The two largest units.
fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m{:02}s", seconds % 60),
        3600..86_400 => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conditions::in_words;
    use crate::conditions::tests::{condition, status};

    fn row(name: &str, state: State) -> Row {
        Row {
            namespace: "rag".to_owned(),
            name: name.to_owned(),
            state,
            lag: Some(120),
            lag_is_lower_bound: false,
            pages_per_second: Some(4.96),
            ready_replicas: 2,
            wanted_replicas: Some(2),
            eta: Eta::Known { eta_seconds: 754 },
            mode: ScalingMode::Auto,
            arriving_pages_per_second: Some(0.26),
            oldest_seconds: Some(61.0),
            model: "minilm".to_owned(),
            age_seconds: Some(90_000),
            conditions: in_words(Some(&status(vec![condition(
                "Ready",
                "True",
                "PipelineReady",
                "All is well.",
            )]))),
        }
    }

    fn broken() -> Row {
        Row {
            lag: None,
            eta: Eta::Unknown,
            ready_replicas: 0,
            wanted_replicas: None,
            pages_per_second: None,
            conditions: in_words(Some(&status(vec![
                condition("Ready", "False", "KafkaUnreachable", "No broker answers."),
                condition(
                    "TopicReady",
                    "False",
                    "KafkaUnreachable",
                    "No broker answers.",
                ),
            ]))),
            ..row("invoices", State::NotReady)
        }
    }

    #[test]
    fn the_table_is_aligned_and_says_what_is_wrong_below() {
        let rows = [row("contracts", State::Ready), broken()];
        let expected = "\
NAME       STATE          LAG  PAGES/S  REPLICAS      ETA
contracts  ready          120      5.0       2/2   12m34s
invoices   not ready  unknown        -       0/?  unknown

invoices
  topics not ready  KafkaUnreachable: No broker answers.";
        let shown = lines(&rows, View::default(), Style::default()).join("\n");
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_wide_table_of_all_namespaces_has_more_columns() {
        let view = View {
            wide: true,
            namespaces: true,
            all_conditions: true,
        };
        let rows = [row("contracts", State::Ready)];
        let expected = "\
NAMESPACE  NAME       STATE  LAG  PAGES/S  REPLICAS     ETA  MODE  ARRIVING/S  OLDEST  MODEL     AGE
rag        contracts  ready  120      5.0       2/2  12m34s  Auto         0.3   1m01s  minilm  1d01h

rag/contracts
  ready  PipelineReady: All is well.";
        assert_eq!(lines(&rows, view, Style::default()).join("\n"), expected);
    }

    #[test]
    fn a_log_has_everything_of_a_pipeline_in_one_line() {
        assert_eq!(
            line(&broken()),
            "rag/invoices: not ready, lag unknown, - pages/s, replicas 0/?, ETA unknown; \
             topics not ready (KafkaUnreachable)"
        );
    }

    #[test]
    fn durations_have_their_two_largest_units() {
        for (seconds, text) in [
            (9, "9s"),
            (61, "1m01s"),
            (3599, "59m59s"),
            (7260, "2h01m"),
            (90_000, "1d01h"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn the_colour_of_a_state_is_that_of_its_worst_condition() {
        let mut ready = row("a", State::Ready);
        assert_eq!(state(&ready).colour, Some(Colour::Green));
        let warning = condition("Scaling", "True", "AtMaxReplicas", "");
        ready.conditions = in_words(Some(&status(vec![warning])));
        assert_eq!(state(&ready).colour, Some(Colour::Yellow));
        assert_eq!(state(&broken()).colour, Some(Colour::Red));
    }
}
