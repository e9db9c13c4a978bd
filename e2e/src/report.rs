//! The demo's report: one self-contained HTML file with the timeline as an SVG.

mod answers;

use std::fmt::Write as _;

use layra_crds::ScalingStatus;
use layra_plot::{Chart, Line, Panel, Shape};

use crate::timeline::{Sample, Timeline};
pub use answers::Shown;

/// Contents of the report.
pub struct Report<'a> {
    /// Name and seconds of each phase.
    pub phases: &'a [(String, f64)],
    /// Observations while the documents were ingested.
    pub timeline: &'a Timeline,
    /// Documents, pages and vectors stored.
    pub totals: (usize, u64, u64),
    /// Questions, each with the pages found and their pictures.
    pub answers: &'a [(String, Vec<Shown>)],
    /// Name and resident bytes of each process.
    pub memory: &'a [(String, u64)],
}

const PANEL_HEIGHT: f64 = 120.0;

/// The report as HTML.
#[must_use]
pub fn html(report: &Report<'_>) -> String {
    let (documents, pages, vectors) = report.totals;
    let mut body = String::new();
    let rate = report.timeline.mean_pages_per_second();
    let _ = write!(
        body,
        "<h1>LAYRA ingestion: demo</h1><p class=lead><b>{documents}</b> documents, <b>{pages}</b> pages, \
         <b>{vectors}</b> vectors; {rate:.1} pages/s from the first page to the last.</p>"
    );
    body.push_str(&timeline(report.timeline));
    body.push_str(&decisions(&report.timeline.decisions));
    body.push_str(&answers::html(report.answers));
    body.push_str("<h2>Time</h2><table><tr><th>s<th>phase");
    for (phase, seconds) in report.phases {
        let _ = write!(body, "<tr><td class=n>{seconds:.1}<td>{}", escape(phase));
    }
    body.push_str("</table><h2>Memory</h2><table><tr><th>MB<th>process");
    for (process, bytes) in report.memory {
        let _ = write!(
            body,
            "<tr><td class=n>{}<td>{}",
            bytes / 1_000_000,
            escape(process)
        );
    }
    body.push_str("</table>");
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><title>LAYRA ingestion: demo</title><style>{STYLE}{}</style><body>{body}</body></html>\n",
        answers::STYLE
    )
}

/// A table of the scaling decisions with their terms.
fn decisions(decisions: &[(f64, ScalingStatus)]) -> String {
    const COLUMNS: usize = 8;
    let mut text =
        "<h2>Scaling decisions</h2><p>Each decision with its terms, and below it the operator's \
        explanation.</p><table class=decisions><tr><th>s<th>workers<th>backlog, pages\
        <th>oldest, s<th>arriving, pages/s<th>for arrivals<th>for backlog<th>limit"
            .to_owned();
    for (second, scaling) in decisions {
        let inputs = scaling.inputs.as_ref();
        let terms = scaling.terms.as_ref();
        let _ = write!(
            text,
            "<tr><td class=n>{second:.0}<td class=n>{}",
            scaling.desired_replicas
        );
        for value in [
            inputs.and_then(|inputs| inputs.pages),
            inputs.and_then(|inputs| inputs.oldest_seconds),
            inputs.and_then(|inputs| inputs.arriving_pages_per_second),
            terms.map(|terms| terms.for_arrivals.into()),
            terms.map(|terms| terms.for_backlog.into()),
            terms.map(|terms| terms.ceiling.into()),
        ] {
            match value {
                Some(value) => {
                    let _ = write!(text, "<td class=n>{}", (value * 10.0).round() / 10.0);
                }
                None => text.push_str("<td class=n>?"),
            }
        }
        // In a separate row: next to seven numbers it would be squeezed.
        let message = escape(&scaling.message);
        let _ = write!(
            text,
            "<tr><td><td class=why colspan={}>{message}",
            COLUMNS - 1
        );
    }
    text.push_str("</table>");
    text
}

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;max-width:960px;margin:2em auto;padding:0 1em;color:#1c2430}\
h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em}h3{font-size:1em;margin-bottom:.3em}.lead{font-size:1.1em}\
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.25em .7em;border-bottom:1px solid #e4e8ee;vertical-align:top}\
th{font-weight:600;color:#5a6675}.n{text-align:right;width:5em;font-variant-numeric:tabular-nums}\
.decisions th{text-align:right}.decisions td{border-bottom:0}.decisions .why{border-bottom:1px solid #e4e8ee;padding-bottom:.6em}\
svg{width:100%;height:auto}svg text{font:12px system-ui,sans-serif;fill:#5a6675}";

/// Four panels over one time axis.
fn timeline(timeline: &Timeline) -> String {
    let samples = &timeline.samples;
    let end = samples.last().map_or(1.0, |sample| sample.second);
    let line = |points, colour, shape| Line {
        points,
        colour,
        shape,
        dashed: false,
    };
    let desired = Line {
        dashed: true,
        ..line(
            series(samples, |s| f64::from(s.desired)),
            "#93b4f5",
            Shape::Steps,
        )
    };
    let ready = series(samples, |s| f64::from(s.ready));
    let lag = series(samples, |s| s.lag.unwrap_or(0) as f64);
    let pages = series(samples, |s| s.pages as f64);
    let panels = [
        ("tasks waiting", vec![line(lag, "#c2410c", Shape::Steps)]),
        (
            "workers",
            vec![desired, line(ready, "#1d4ed8", Shape::Steps)],
        ),
        (
            "pages stored",
            vec![line(pages, "#047857", Shape::Straight)],
        ),
        (
            "pages/s",
            vec![line(rates(samples), "#6d28d9", Shape::Straight)],
        ),
    ];
    let mut chart = Chart::new(end, PANEL_HEIGHT);
    for (name, lines) in &panels {
        let values = lines.iter().flat_map(|line| &line.points);
        chart.panel(&Panel {
            name,
            highest: values.map(|point| point.1).fold(1.0, f64::max),
            level: None,
            lines,
        });
    }
    chart.finish() + "<p>Workers: ready (line) and asked for (dashed).</p>"
}

fn series(samples: &[Sample], value: impl Fn(&Sample) -> f64) -> Vec<(f64, f64)> {
    samples
        .iter()
        .map(|sample| (sample.second, value(sample)))
        .collect()
}

/// Pages per second over the last ten seconds before each sample.
fn rates(samples: &[Sample]) -> Vec<(f64, f64)> {
    samples
        .iter()
        .map(|now| {
            let then = samples
                .iter()
                .find(|s| s.second >= now.second - 10.0)
                .unwrap_or(now);
            let seconds = now.second - then.second;
            let rate = if seconds > 0.0 {
                (now.pages - then.pages) as f64 / seconds
            } else {
                0.0
            };
            (now.second, rate)
        })
        .collect()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::Answer;

    #[test]
    fn text_from_outside_cannot_become_markup() {
        let timeline = Timeline::default();
        let answers = [(
            "<script>".to_owned(),
            vec![(
                Answer {
                    file: "a&b.pdf".to_owned(),
                    ..Answer::default()
                },
                Vec::new(),
            )],
        )];
        let page = html(&Report {
            phases: &[],
            timeline: &timeline,
            totals: (1, 2, 3),
            answers: &answers,
            memory: &[],
        });
        assert!(!page.contains("<script>"));
        assert!(page.contains("a&amp;b.pdf"));
    }

    #[test]
    fn a_decision_is_shown_with_its_terms() {
        let scaling = ScalingStatus {
            desired_replicas: 3,
            message: "The backlog is empty. Desired: 3 workers.".to_owned(),
            terms: Some(layra_crds::ScalingTerms {
                for_backlog: 7,
                ..layra_crds::ScalingTerms::default()
            }),
            ..ScalingStatus::default()
        };
        let table = decisions(&[(12.0, scaling)]);
        assert!(
            table.contains("<td class=n>12<td class=n>3<td class=n>?"),
            "{table}"
        );
        assert!(
            table.contains(
                "<td class=n>7<td class=n>0<tr><td><td class=why colspan=7>The backlog is empty"
            ),
            "{table}"
        );
    }
}
