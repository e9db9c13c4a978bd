//! Line charts over one time axis, as SVG: panels below each other, each with its own scale. Used
//! by the simulator's pictures and the demo's report. [`board`] has panels beside each other.

pub mod board;
mod frame;

use std::fmt::Write as _;

use frame::{Frame, escaped, time};

const WIDTH: f64 = 920.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const GAP: f64 = 22.0;
/// Below the last panel, for the time axis.
const FOOT: f64 = 30.0;
const GREY: &str = "#5a6675";

/// A chart that grows downwards.
#[derive(Clone, Debug)]
pub struct Chart {
    body: String,
    top: f64,
    seconds: f64,
    panel_height: f64,
}

/// A panel of a chart.
#[derive(Clone, Copy, Debug)]
pub struct Panel<'a> {
    /// Shown above it.
    pub name: &'a str,
    /// The value at its top; its bottom is 0.
    pub highest: f64,
    /// A value with its colour, as a dashed horizontal line.
    pub level: Option<(f64, &'a str)>,
    /// Drawn in this order.
    pub lines: &'a [Line<'a>],
}

/// A line of a panel.
#[derive(Clone, Debug)]
pub struct Line<'a> {
    /// Seconds and values, in the order of time.
    pub points: Vec<(f64, f64)>,
    /// A CSS colour.
    pub colour: &'a str,
    /// How points are connected.
    pub shape: Shape,
    /// Dashed instead of solid.
    pub dashed: bool,
}

/// How the points of a line are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A value holds until the next one, and the last until the end of the chart.
    Steps,
    /// Straight from one point to the next.
    Straight,
}

impl Chart {
    /// An empty chart of this many seconds, whose panels are `panel_height` pixels high.
    #[must_use]
    pub fn new(seconds: f64, panel_height: f64) -> Self {
        Self {
            body: String::new(),
            top: 0.0,
            seconds: seconds.max(1.0),
            panel_height,
        }
    }

    /// Adds the title, which must come first.
    pub fn title(&mut self, text: &str) {
        self.text(20.0, 15, text);
        self.top = 26.0;
    }

    /// Adds a heading above the panels that follow.
    pub fn heading(&mut self, text: &str) {
        self.top += 26.0;
        self.text(self.top, 14, text);
    }

    /// Adds a panel below the last one.
    pub fn panel(&mut self, panel: &Panel<'_>) {
        self.top += GAP;
        let (top, base) = (self.top, self.top + self.panel_height);
        let frame = self.frame(top, panel.highest);
        self.text(top - 5.0, 11, panel.name);
        // Writing to a string cannot fail.
        let _ = writeln!(
            self.body,
            "<text x=\"{x}\" y=\"{high:.0}\" text-anchor=\"end\" fill=\"{GREY}\">{highest:.0}</text>\
             <text x=\"{x}\" y=\"{base:.0}\" text-anchor=\"end\" fill=\"{GREY}\">0</text>\
             <path d=\"M{LEFT} {base:.0}H{end}\" stroke=\"#cbd3dd\"/>",
            x = LEFT - 8.0,
            high = top + 10.0,
            highest = panel.highest,
            end = WIDTH - RIGHT,
        );
        if let Some((value, colour)) = panel.level {
            let _ = writeln!(
                self.body,
                "<path d=\"M{LEFT} {:.1}H{}\" stroke=\"{colour}\" stroke-dasharray=\"5 4\"/>",
                frame.y(value),
                WIDTH - RIGHT
            );
        }
        for line in panel.lines {
            let dashes = if line.dashed {
                " stroke-dasharray=\"5 4\""
            } else {
                ""
            };
            let _ = writeln!(
                self.body,
                "<path d=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.5\"{dashes}/>",
                frame.path(line),
                line.colour,
            );
        }
        self.top += self.panel_height;
    }

    /// Adds the time axis, and returns the SVG document.
    #[must_use]
    pub fn finish(mut self) -> String {
        let height = self.top + FOOT;
        self.time_axis(height - 8.0);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"system-ui, sans-serif\" font-size=\"12\">\n\
             <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n\
             {}</svg>\n",
            self.body
        )
    }

    fn time_axis(&mut self, y: f64) {
        for tick in 0..=6 {
            let second = self.seconds * f64::from(tick) / 6.0;
            let label = time(second, self.seconds);
            let _ = writeln!(
                self.body,
                "<text x=\"{:.0}\" y=\"{y:.0}\" text-anchor=\"middle\" fill=\"{GREY}\">{label}</text>",
                self.frame(0.0, 1.0).x(second),
            );
        }
    }

    fn text(&mut self, y: f64, size: u32, text: &str) {
        let text = escaped(text);
        let _ = writeln!(
            self.body,
            "<text x=\"{LEFT}\" y=\"{y:.0}\" font-size=\"{size}\" fill=\"#1c2430\">{text}</text>"
        );
    }

    fn frame(&self, top: f64, highest: f64) -> Frame {
        Frame {
            left: LEFT,
            right: WIDTH - RIGHT,
            top,
            base: top + self.panel_height,
            seconds: self.seconds,
            highest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: &[(f64, f64)], shape: Shape) -> String {
        let mut chart = Chart::new(10.0, 100.0);
        chart.panel(&Panel {
            name: "n",
            highest: 1.0,
            level: Some((0.5, "red")),
            lines: &[Line {
                points: points.to_vec(),
                colour: "blue",
                shape,
                dashed: false,
            }],
        });
        chart.finish()
    }

    #[test]
    fn text_from_outside_cannot_become_markup() {
        let mut chart = Chart::new(10.0, 100.0);
        chart.title("<script>&");
        let svg = chart.finish();
        assert!(svg.contains("&lt;script&gt;&amp;"), "{svg}");
    }

    #[test]
    fn a_step_holds_its_value_until_the_next_point_and_the_end() {
        // 840 wide from 64 on; the panel is between 22 and 122.
        let svg = chart(&[(0.0, 0.0), (5.0, 1.0)], Shape::Steps);
        assert!(svg.contains("M64.0 122.0H484.0V22.0H904.0"), "{svg}");
    }

    #[test]
    fn a_straight_line_goes_from_point_to_point() {
        let svg = chart(&[(0.0, 0.0), (5.0, 1.0)], Shape::Straight);
        assert!(svg.contains("\"M64.0 122.0L484.0 22.0\""), "{svg}");
    }

    #[test]
    fn a_level_is_a_dashed_line_across_the_panel() {
        let svg = chart(&[], Shape::Steps);
        assert!(
            svg.contains("M64 72.0H904\" stroke=\"red\" stroke-dasharray"),
            "{svg}"
        );
    }

    #[test]
    fn long_timelines_make_small_pictures() {
        let points: Vec<(f64, f64)> = (0..86_400)
            .map(|second| (f64::from(second), f64::from(second % 977) / 977.0))
            .collect();
        assert!(chart(&points, Shape::Steps).len() < 20_000);
    }
}
