//! The picture of a comparison: for each policy the wait of the oldest document against the drain
//! target, the documents that are not done, and the workers asked for and ready, over one time axis.

use std::fmt::Write as _;

use super::simulation::{Sample, Outcome};

const WIDTH: f64 = 920.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const PANEL: f64 = 48.0;
const GAP: f64 = 22.0;
/// Points of a line; more cannot be seen.
const POINTS: usize = 600;

const LAG: &str = "#c2410c";
const WAIT: &str = "#6d28d9";
const ASKED: &str = "#93b4f5";
const READY: &str = "#1d4ed8";
const TARGET: &str = "#b91c1c";
const GREY: &str = "#5a6675";

/// The picture. Panels of the same kind have the same scale, so that policies compare.
pub(super) fn draw(title: &str, outcomes: &[Outcome], drain_target: u32) -> String {
    let seconds = outcomes
        .iter()
        .map(|one| one.timeline.len())
        .max()
        .unwrap_or(1);
    let highest = |value: fn(&Sample) -> u32| {
        let moments = outcomes.iter().flat_map(|outcome| &outcome.timeline);
        f64::from(moments.map(value).max().unwrap_or(0).max(1))
    };
    let height = 60.0 + outcomes.len() as f64 * (3.0 * (PANEL + GAP) + 26.0) + 24.0;
    let mut canvas = Canvas {
        svg: format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"system-ui, sans-serif\" font-size=\"12\">\n\
             <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n"
        ),
        top: 26.0,
        seconds: seconds as f64,
    };
    canvas.text(LEFT, 20.0, 15, &format!("Simulation: {title}"));
    let scales = Scales {
        lag: highest(|moment| moment.lag),
        wait: highest(|moment| moment.oldest_wait).max(1.2 * f64::from(drain_target)),
        workers: highest(|moment| moment.desired.max(moment.ready)),
        target: f64::from(drain_target),
    };
    for outcome in outcomes {
        canvas.policy(outcome, &scales);
    }
    canvas.time_axis(height);
    canvas.svg + "</svg>\n"
}

struct Scales {
    lag: f64,
    wait: f64,
    workers: f64,
    target: f64,
}

struct Canvas {
    svg: String,
    top: f64,
    seconds: f64,
}

impl Canvas {
    fn policy(&mut self, outcome: &Outcome, scales: &Scales) {
        let figures = &outcome.figures;
        self.top += 26.0;
        let heading = format!(
            "{}: {} GPU-seconds, {} s over the drain target, {} rescales",
            outcome.policy, figures.gpu_seconds, figures.seconds_over_target, figures.rescales
        );
        self.text(LEFT, self.top, 14, &heading);
        let timeline = &outcome.timeline;
        self.panel("documents not done", scales.lag, |canvas, highest| {
            canvas.line(timeline, |moment| moment.lag, highest, LAG);
        });
        let name = "wait of the oldest, s; dashed: drain target";
        self.panel(name, scales.wait, |canvas, highest| {
            canvas.level(scales.target, highest);
            canvas.line(timeline, |moment| moment.oldest_wait, highest, WAIT);
        });
        let name = "workers asked for (light) and ready (dark)";
        self.panel(name, scales.workers, |canvas, highest| {
            canvas.line(timeline, |moment| moment.desired, highest, ASKED);
            canvas.line(timeline, |moment| moment.ready, highest, READY);
        });
    }

    fn panel(&mut self, name: &str, highest: f64, draw: impl FnOnce(&mut Self, f64)) {
        self.top += GAP;
        let (top, base) = (self.top, self.top + PANEL);
        self.text(LEFT, top - 5.0, 11, name);
        let _ = writeln!(
            self.svg,
            "<text x=\"{x}\" y=\"{high:.0}\" text-anchor=\"end\" fill=\"{GREY}\">{highest:.0}</text>\
             <text x=\"{x}\" y=\"{base:.0}\" text-anchor=\"end\" fill=\"{GREY}\">0</text>\
             <path d=\"M{LEFT} {base:.0}H{end}\" stroke=\"#cbd3dd\"/>",
            x = LEFT - 8.0,
            high = top + 10.0,
            end = WIDTH - RIGHT,
        );
        draw(self, highest);
        self.top += PANEL;
    }

    fn level(&mut self, value: f64, highest: f64) {
        let y = self.y(value, highest);
        let _ = writeln!(
            self.svg,
            "<path d=\"M{LEFT} {y:.1}H{}\" stroke=\"{TARGET}\" stroke-dasharray=\"5 4\"/>",
            WIDTH - RIGHT
        );
    }

    /// A line in steps, of the largest value of each stretch of time.
    fn line(&mut self, timeline: &[Sample], value: fn(&Sample) -> u32, highest: f64, colour: &str) {
        let stretch = timeline.len().div_ceil(POINTS).max(1);
        let mut path = String::new();
        let mut last = None;
        for (index, moments) in timeline.chunks(stretch).enumerate() {
            let largest = moments.iter().map(value).max().unwrap_or(0);
            if last == Some(largest) {
                continue;
            }
            let x = self.x((index * stretch) as f64);
            let y = self.y(f64::from(largest), highest);
            let _ = match last {
                None => write!(path, "M{x:.1} {y:.1}"),
                Some(_) => write!(path, "H{x:.1}V{y:.1}"),
            };
            last = Some(largest);
        }
        let _ = writeln!(
            self.svg,
            "<path d=\"{path}H{:.1}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>",
            self.x(self.seconds)
        );
    }

    fn time_axis(&mut self, height: f64) {
        for tick in 0..=6 {
            let second = self.seconds * f64::from(tick) / 6.0;
            let label = if self.seconds > 7200.0 {
                format!("{:.1} h", second / 3600.0)
            } else {
                format!("{:.0} min", second / 60.0)
            };
            let _ = writeln!(
                self.svg,
                "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"middle\" fill=\"{GREY}\">{label}</text>",
                self.x(second),
                height - 8.0
            );
        }
    }

    fn text(&mut self, x: f64, y: f64, size: u32, text: &str) {
        let text = text
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;");
        let _ = writeln!(
            self.svg,
            "<text x=\"{x}\" y=\"{y:.0}\" font-size=\"{size}\" fill=\"#1c2430\">{text}</text>"
        );
    }

    fn x(&self, second: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * second / self.seconds
    }

    fn y(&self, value: f64, highest: f64) -> f64 {
        self.top + PANEL - PANEL * value / highest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulation::Figures;

    fn outcome(lags: &[u32]) -> Outcome {
        let moment = |lag: &u32| Sample {
            lag: *lag,
            ..Sample::default()
        };
        Outcome {
            policy: "layra",
            figures: Figures::default(),
            changes: Vec::new(),
            timeline: lags.iter().map(moment).collect(),
        }
    }

    #[test]
    fn a_title_from_outside_cannot_become_markup() {
        let picture = draw("<script>&", &[outcome(&[1])], 600);
        assert!(picture.contains("Simulation: &lt;script&gt;&amp;"));
    }

    #[test]
    fn a_line_goes_on_until_its_value_changes() {
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
