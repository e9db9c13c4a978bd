//! A picture of a dashboard, drawn from the answers of a Prometheus to its queries. It shows what the
//! panels ask for, not how Grafana draws it.

use std::collections::{BTreeMap, BTreeSet};

use layra_plot::board::{Bar, Board, Content, Mark, Tile};
use layra_plot::{Line, Shape};

use super::{Dashboard, Kind, Panel, Query};

/// Below the title of each picture.
const ORIGIN: &str = "Drawn by the tests of this repository from the dashboard's own queries, asked \
                      of a Prometheus while documents flow. It is no picture of Grafana.";
const COLOURS: [&str; 8] = [
    "#1d4ed8", "#c2410c", "#15803d", "#6d28d9", "#b91c1c", "#0e7490", "#a16207", "#be185d",
];
const MARKS: [&str; 2] = ["#60a5fa", "#f59e0b"];
const GREY: &str = "#5a6675";

/// A series of an answer to a range query.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Seconds since the start of the range, and finite values.
    pub points: Vec<(f64, f64)>,
}

/// What was asked for, as [`Dashboard::queries`] has the queries.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    /// Length of the range.
    pub seconds: f64,
    /// Seconds from a point to the next.
    pub step: f64,
    /// The series of each query.
    pub series: BTreeMap<String, Vec<Series>>,
}

impl Answers {
    fn of(&self, query: &Query) -> &[Series] {
        let found = self.series.get(&query.promql);
        found.map_or(&[], Vec::as_slice)
    }

    /// The points of a series without gaps: it has no value for a while between two of them.
    fn runs<'a>(&self, series: &'a Series) -> impl Iterator<Item = &'a [(f64, f64)]> {
        let longest = 1.5 * self.step;
        series
            .points
            .chunk_by(move |(first, _), (second, _)| second - first <= longest)
    }
}

impl Dashboard {
    /// The picture, as SVG.
    #[must_use]
    pub fn picture(&self, answers: &Answers) -> String {
        let mut marks = Vec::new();
        let mut notes = Vec::new();
        for (annotation, colour) in self.annotations.iter().zip(MARKS) {
            let found = marks_of(&annotation.query, answers);
            notes.push((format!("Dashed lines: {}", annotation.name), colour));
            marks.extend(found.into_iter().map(|second| Mark {
                second: second as f64,
                colour,
            }));
        }
        let mut board = Board::new(answers.seconds, marks);
        board.title(self.title);
        board.note(ORIGIN, GREY);
        for (note, colour) in notes {
            board.note(&note, colour);
        }
        for row in &self.rows {
            board.heading(row.title);
            for line in row.lines() {
                let tiles = line.into_iter().map(|(column, panel)| Tile {
                    title: panel.title,
                    column,
                    columns: panel.width,
                    content: panel.content(answers),
                });
                board.tiles(&tiles.collect::<Vec<_>>());
            }
        }
        board.finish()
    }
}

/// The seconds at which a query begins to have a value.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a whole number of seconds since the start"
)]
fn marks_of(query: &Query, answers: &Answers) -> BTreeSet<u64> {
    let series = answers.of(query).iter();
    let runs = series.flat_map(|series| answers.runs(series));
    runs.map(|run| run[0].0 as u64).collect()
}

impl Panel {
    fn content(&self, answers: &Answers) -> Content<'static> {
        let mut all = self.queries.iter().map(|query| answers.of(query));
        if all.all(<[Series]>::is_empty) {
            return Content::Nothing("no data in this time");
        }
        match self.kind {
            Kind::Lines => self.lines(answers),
            Kind::States => self.bars(answers),
            Kind::Table => self.table(answers),
            Kind::Number => {
                let mut series = self.queries.iter().flat_map(|query| answers.of(query));
                let last = series.find_map(last);
                Content::Number(last.map_or_else(String::new, |it| shown(it, self.unit)))
            }
        }
    }

    fn lines(&self, answers: &Answers) -> Content<'static> {
        let (mut lines, mut legend, mut highest) = (Vec::new(), Vec::new(), 0_f64);
        for query in &self.queries {
            for series in answers.of(query) {
                let colour = COLOURS[legend.len() % COLOURS.len()];
                legend.push((named(query.legend, series), colour));
                for run in answers.runs(series) {
                    highest = run.iter().map(|(_, value)| *value).fold(highest, f64::max);
                    lines.push(Line {
                        points: run.to_vec(),
                        colour,
                        shape: Shape::Straight,
                        dashed: false,
                    });
                }
            }
        }
        if highest <= 0.0 {
            highest = 1.0;
        }
        Content::Lines {
            lines,
            highest: (highest, shown(highest, self.unit)),
            legend,
        }
    }

    fn bars(&self, answers: &Answers) -> Content<'static> {
        let mut bars = Vec::new();
        for query in &self.queries {
            for series in answers.of(query) {
                let mut parts = Vec::new();
                for run in answers.runs(series) {
                    for same in
                        run.chunk_by(|(_, first), (_, second)| state(*first) == state(*second))
                    {
                        let end = (same[same.len() - 1].0 + answers.step).min(answers.seconds);
                        parts.push((same[0].0, end, state(same[0].1)));
                    }
                }
                let name = named(query.legend, series);
                bars.push(Bar { name, parts });
            }
        }
        Content::Bars(bars)
    }

    /// A line for each pipeline, a column for each query.
    fn table(&self, answers: &Answers) -> Content<'static> {
        let every = self.queries.iter().flat_map(|query| answers.of(query));
        let pipelines: BTreeSet<String> = every.map(pipeline).collect();
        let mut rows = vec![vec![String::new()]];
        rows[0].extend(self.queries.iter().map(|query| query.legend.to_owned()));
        for name in pipelines {
            let mut row = vec![name.clone()];
            for query in &self.queries {
                let mut series = answers.of(query).iter();
                let value = series.find(|it| pipeline(it) == name).and_then(last);
                row.push(value.map_or_else(|| "-".to_owned(), |it| shown(it, self.unit)));
            }
            rows.push(row);
        }
        Content::Table(rows)
    }
}

fn pipeline(series: &Series) -> String {
    named("{{namespace}}/{{pipeline}}", series)
}

fn last(series: &Series) -> Option<f64> {
    series.points.last().map(|(_, value)| *value)
}

/// The colour of a state, as in Grafana: unknown, no, yes.
fn state(value: f64) -> &'static str {
    if value < 0.0 {
        "#eab308"
    } else if value > 0.0 {
        "#3b82f6"
    } else {
        "#d5dbe3"
    }
}

/// The legend with the values of the labels that it names.
fn named(legend: &str, series: &Series) -> String {
    let mut name = legend.to_owned();
    for (label, value) in &series.labels {
        name = name.replace(&format!("{{{{{label}}}}}"), value);
    }
    name
}

/// A value in Grafana's unit.
fn shown(value: f64, unit: &str) -> String {
    match unit {
        "s" if value >= 120.0 => format!("{:.0} min", value / 60.0),
        "s" if value >= 1.0 => format!("{value:.1} s"),
        "s" => format!("{:.0} ms", value * 1000.0),
        "percentunit" => format!("{:.0} %", value * 100.0),
        "bytes" => bytes(value),
        "Bps" => format!("{}/s", bytes(value)),
        _ if value >= 1e6 => format!("{:.1} M", value / 1e6),
        _ if value >= 1e4 => format!("{:.1} k", value / 1e3),
        _ if value.fract() == 0.0 => format!("{value:.0}"),
        _ => format!("{value:.2}"),
    }
}

fn bytes(value: f64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let fits = units
        .into_iter()
        .find(|(_, power)| value >= f64::from(1_u32 << power));
    match fits {
        Some((unit, power)) => format!("{:.1} {unit}", value / f64::from(1_u32 << power)),
        None => format!("{value:.0} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dashboards::all;

    /// An answer to every query: a series that begins at 2 s, with each label that a legend names.
    fn answers() -> Answers {
        let labels = [
            ("namespace", "rag"),
            ("pipeline", "contracts"),
            ("pod", "worker-1"),
        ];
        let series = Series {
            labels: labels
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            points: (2..30)
                .map(|second| (f64::from(second), f64::from(second) / 4.0))
                .collect(),
        };
        let dashboards = all();
        let queries = dashboards.iter().flat_map(Dashboard::queries);
        Answers {
            seconds: 30.0,
            step: 1.0,
            series: queries
                .map(|query| (query.to_owned(), vec![series.clone()]))
                .collect(),
        }
    }

    #[test]
    fn a_picture_has_every_panel_and_says_that_it_is_not_grafanas() {
        for dashboard in all() {
            let svg = dashboard.picture(&answers());
            assert!(svg.contains("no picture of Grafana"));
            for panel in dashboard.rows.iter().flat_map(|row| &row.panels) {
                assert!(
                    svg.contains(&format!(">{}</text>", panel.title)),
                    "{}",
                    panel.title
                );
            }
            assert!(!svg.contains("no data"), "{svg}");
        }
    }

    #[test]
    fn what_has_no_answer_says_so() {
        let empty = Answers {
            seconds: 30.0,
            ..Answers::default()
        };
        for dashboard in all() {
            let svg = dashboard.picture(&empty);
            let panels = dashboard.rows.iter().flat_map(|row| &row.panels).count();
            assert_eq!(svg.matches("no data in this time").count(), panels);
        }
    }

    #[test]
    fn a_gap_interrupts_a_line_and_a_mark_is_where_values_begin() {
        let points = [(0.0, 1.0), (1.0, 1.0), (9.0, 2.0)];
        let series = Series {
            points: points.to_vec(),
            ..Series::default()
        };
        let query = super::super::query("up", "");
        let answers = Answers {
            seconds: 10.0,
            step: 1.0,
            series: BTreeMap::from([("up".to_owned(), vec![series.clone()])]),
        };
        let lengths: Vec<usize> = answers.runs(&series).map(<[_]>::len).collect();
        assert_eq!(lengths, [2, 1]);
        assert_eq!(marks_of(&query, &answers), BTreeSet::from([0, 9]));
    }

    #[test]
    fn values_are_shown_in_their_unit() {
        let texts = [
            (0.25, "s"),
            (600.0, "s"),
            (0.5, "percentunit"),
            (3_221_225_472.0, "bytes"),
            (2048.0, "Bps"),
            (12_345.0, "short"),
            (7.0, "short"),
            (0.25, "short"),
        ]
        .map(|(value, unit)| shown(value, unit));
        let expected = [
            "250 ms",
            "10 min",
            "50 %",
            "3.0 GiB",
            "2.0 KiB/s",
            "12.3 k",
            "7",
            "0.25",
        ];
        assert_eq!(texts, expected);
    }
}
