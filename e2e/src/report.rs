//! The demo's report: one self-contained HTML file with the timeline as an SVG.

use std::fmt::Write as _;

use layra_crds::ScalingStatus;

use crate::timeline::{Sample, Timeline};
use crate::worker_cli::Hit;

/// Contents of the report.
pub struct Report<'a> {
    /// Name and seconds of each phase.
    pub phases: &'a [(String, f64)],
    /// Observations while the documents were ingested.
    pub timeline: &'a Timeline,
    /// Documents, pages and vectors stored.
    pub totals: (usize, u64, u64),
    /// Questions, each with the pages found.
    pub answers: &'a [(String, Vec<Hit>)],
    /// Name and resident bytes of each process.
    pub memory: &'a [(String, u64)],
}

const WIDTH: f64 = 920.0;
const PANEL: f64 = 120.0;
const LEFT: f64 = 60.0;

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
    body.push_str("<h2>Questions</h2>");
    for (question, hits) in report.answers {
        let _ = write!(
            body,
            "<h3>{}</h3><table><tr><th>score<th>page<th>file",
            escape(question)
        );
        for Hit { file, page, score } in hits {
            let _ = write!(
                body,
                "<tr><td class=n>{score:.3}<td class=n>{page}<td>{}",
                escape(file)
            );
        }
        body.push_str("</table>");
    }
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
        "<!doctype html><html lang=en><meta charset=utf-8><title>LAYRA ingestion: demo</title><style>{STYLE}</style><body>{body}</body></html>\n"
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

/// Three panels over one time axis.
fn timeline(timeline: &Timeline) -> String {
    let end = timeline
        .samples
        .last()
        .map_or(1.0, |sample| sample.second)
        .max(1.0);
    let rates = rates(&timeline.samples);
    let lag = series(&timeline.samples, |s| s.lag.unwrap_or(0) as f64);
    let ready = series(&timeline.samples, |s| f64::from(s.ready));
    let pages = series(&timeline.samples, |s| s.pages as f64);
    let panels = [
        ("tasks waiting", lag, "#c2410c", true),
        ("workers", ready, "#1d4ed8", true),
        ("pages stored", pages, "#047857", false),
        ("pages/s", rates, "#6d28d9", false),
    ];
    let height = panels.len() as f64 * (PANEL + 30.0) + 30.0;
    let mut svg = format!(
        "<svg viewBox='0 0 {WIDTH} {height}' role=img aria-label='tasks waiting, workers, pages over time'>"
    );
    for (index, (name, points, colour, steps)) in panels.iter().enumerate() {
        let top = index as f64 * (PANEL + 30.0) + 20.0;
        let mut highest = points.iter().map(|point| point.1).fold(1.0, f64::max);
        if *name == "workers" {
            let desired = series(&timeline.samples, |s| f64::from(s.desired));
            highest = desired.iter().map(|point| point.1).fold(highest, f64::max);
            let _ = write!(
                svg,
                "<path d='{}' fill=none stroke='#93b4f5' stroke-width=1.5 stroke-dasharray='4 3'/>",
                path(&desired, top, end, highest, true)
            );
        }
        let _ = write!(
            svg,
            "<text x={LEFT} y={}>{name}</text><text x={} y={} text-anchor=end>{highest:.0}</text>\
             <text x={} y={} text-anchor=end>0</text>\
             <line x1={LEFT} x2={WIDTH} y1={base} y2={base} stroke='#cbd3dd'/>\
             <path d='{}' fill=none stroke='{colour}' stroke-width=2 />",
            top - 6.0,
            LEFT - 8.0,
            top + 10.0,
            LEFT - 8.0,
            top + PANEL,
            path(points, top, end, highest, *steps),
            base = top + PANEL,
        );
    }
    for tick in 0..=6 {
        let second = end * f64::from(tick) / 6.0;
        let x = LEFT + (WIDTH - LEFT - 20.0) * f64::from(tick) / 6.0;
        let _ = write!(
            svg,
            "<text x={x:.0} y={} text-anchor=middle>{second:.0} s</text>",
            height - 8.0
        );
    }
    svg.push_str("</svg><p>Workers: ready (line) and asked for (dashed).</p>");
    svg
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

/// An SVG path; `steps` holds a value until the next one.
fn path(points: &[(f64, f64)], top: f64, end: f64, highest: f64, steps: bool) -> String {
    let mut path = String::new();
    for (index, (second, value)) in points.iter().enumerate() {
        let x = LEFT + (WIDTH - LEFT - 20.0) * second / end;
        let y = top + PANEL - PANEL * value / highest;
        if index == 0 {
            let _ = write!(path, "M{x:.1} {y:.1}");
        } else if steps {
            let _ = write!(path, "H{x:.1}V{y:.1}");
        } else {
            let _ = write!(path, "L{x:.1} {y:.1}");
        }
    }
    path
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_cannot_become_markup() {
        let timeline = Timeline::default();
        let answers = [(
            "<script>".to_owned(),
            vec![Hit {
                file: "a&b.pdf".to_owned(),
                page: 3,
                score: 0.5,
            }],
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
            message: "Nothing waits: 3 workers.".to_owned(),
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
                "<td class=n>7<td class=n>0<tr><td><td class=why colspan=7>Nothing waits"
            ),
            "{table}"
        );
    }

    #[test]
    fn a_step_holds_its_value_until_the_next_sample() {
        let drawn = path(&[(0.0, 0.0), (10.0, 1.0)], 0.0, 10.0, 1.0, true);
        assert_eq!(drawn, "M60.0 120.0H900.0V0.0");
    }
}
