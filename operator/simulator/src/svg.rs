//! The picture of a comparison. For each policy it shows the lag, the wait of the oldest document
//! against the drain target, and the replicas, over one time axis.

use layra_plot::{Chart, Line, Panel, Shape};

use super::simulation::{Outcome, Sample};

const PANEL_HEIGHT: f64 = 48.0;

const LAG: &str = "#c2410c";
const WAIT: &str = "#6d28d9";
const DESIRED: &str = "#93b4f5";
const READY: &str = "#1d4ed8";
const TARGET: &str = "#b91c1c";

/// Draws the outcomes. Panels of the same kind have the same scale, so that policies compare.
pub(super) fn draw(title: &str, outcomes: &[Outcome], drain_target: u32) -> String {
    let seconds = outcomes
        .iter()
        .map(|outcome| outcome.timeline.len())
        .max()
        .unwrap_or(1);
    let highest = |value: fn(&Sample) -> u32| {
        let samples = outcomes.iter().flat_map(|outcome| &outcome.timeline);
        f64::from(samples.map(value).max().unwrap_or(0).max(1))
    };
    let scales = Scales {
        lag: highest(|sample| sample.lag),
        wait: highest(|sample| sample.oldest_wait).max(1.2 * f64::from(drain_target)),
        replicas: highest(|sample| sample.desired.max(sample.ready)),
        target: f64::from(drain_target),
    };
    let mut chart = Chart::new(seconds as f64, PANEL_HEIGHT);
    chart.title(&format!("Simulation: {title}"));
    for outcome in outcomes {
        draw_policy(&mut chart, outcome, &scales);
    }
    chart.finish()
}

struct Scales {
    lag: f64,
    wait: f64,
    replicas: f64,
    target: f64,
}

fn draw_policy(chart: &mut Chart, outcome: &Outcome, scales: &Scales) {
    let figures = &outcome.figures;
    chart.heading(&format!(
        "{}: {} GPU-seconds, {} s over the drain target, {} rescales",
        outcome.policy, figures.gpu_seconds, figures.seconds_over_target, figures.rescales
    ));
    let line = |value: fn(&Sample) -> u32, colour| Line {
        points: (0u32..)
            .zip(&outcome.timeline)
            .map(|(second, sample)| (f64::from(second), f64::from(value(sample))))
            .collect(),
        colour,
        shape: Shape::Steps,
        dashed: false,
    };
    chart.panel(&Panel {
        name: "unprocessed documents",
        highest: scales.lag,
        level: None,
        lines: &[line(|sample| sample.lag, LAG)],
    });
    chart.panel(&Panel {
        name: "wait of the oldest document, s; dashed: drain target",
        highest: scales.wait,
        level: Some((scales.target, TARGET)),
        lines: &[line(|sample| sample.oldest_wait, WAIT)],
    });
    chart.panel(&Panel {
        name: "replicas: desired (light) and ready (dark)",
        highest: scales.replicas,
        level: None,
        lines: &[
            line(|sample| sample.desired, DESIRED),
            line(|sample| sample.ready, READY),
        ],
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulation::Figures;

    fn outcome(lags: &[u32]) -> Outcome {
        let sample = |lag: &u32| Sample {
            lag: *lag,
            ..Sample::default()
        };
        Outcome {
            policy: "layra",
            figures: Figures::default(),
            changes: Vec::new(),
            timeline: lags.iter().map(sample).collect(),
        }
    }

    #[test]
    fn a_title_from_outside_cannot_become_markup() {
        let picture = draw("<script>&", &[outcome(&[1])], 600);
        assert!(picture.contains("Simulation: &lt;script&gt;&amp;"));
    }

    #[test]
    fn a_line_continues_until_its_value_changes() {
        let picture = draw("t", &[outcome(&[0, 0, 4, 4])], 600);
        // 840 wide from 64 on; the value changes half-way, from the panel's bottom to its top.
        assert!(
            picture.contains("M64.0 122.0H484.0V74.0H904.0"),
            "{picture}"
        );
    }

    #[test]
    fn long_timelines_make_small_pictures() {
        let lags: Vec<u32> = (0..86_400).map(|second| second % 977).collect();
        assert!(draw("t", &[outcome(&lags)], 600).len() < 60_000);
    }
}
