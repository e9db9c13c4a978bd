//! Where values are drawn: the pixels of a time axis and of a scale that begins at 0.

use std::fmt::Write as _;

use crate::{Line, Shape};

/// Points of a line; more cannot be distinguished.
const POINTS: usize = 600;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    pub(crate) left: f64,
    pub(crate) right: f64,
    pub(crate) top: f64,
    pub(crate) base: f64,
    /// The time at its right edge.
    pub(crate) seconds: f64,
    /// The value at its top.
    pub(crate) highest: f64,
}

impl Frame {
    pub(crate) fn x(&self, second: f64) -> f64 {
        self.left + (self.right - self.left) * second / self.seconds
    }

    pub(crate) fn y(&self, value: f64) -> f64 {
        self.base - (self.base - self.top) * value / self.highest
    }

    /// The largest value of each stretch of time, so that long timelines make small pictures.
    pub(crate) fn path(&self, line: &Line<'_>) -> String {
        let stretch = line.points.len().div_ceil(POINTS).max(1);
        let mut path = String::new();
        let mut last = None;
        for points in line.points.chunks(stretch) {
            let largest = points.iter().map(|(_, value)| *value).fold(0.0, f64::max);
            if line.shape == Shape::Steps && last == Some(largest) {
                continue;
            }
            let x = self.x(points[0].0);
            let y = self.y(largest);
            // Writing to a string cannot fail.
            let _ = match (last, line.shape) {
                (None, _) => write!(path, "M{x:.1} {y:.1}"),
                (Some(_), Shape::Steps) => write!(path, "H{x:.1}V{y:.1}"),
                (Some(_), Shape::Straight) => write!(path, "L{x:.1} {y:.1}"),
            };
            last = Some(largest);
        }
        if line.shape == Shape::Steps && last.is_some() {
            let _ = write!(path, "H{:.1}", self.x(self.seconds));
        }
        path
    }
}

/// A time since the start, in a unit that fits the length of the axis.
pub(crate) fn time(second: f64, length: f64) -> String {
    if length > 7200.0 {
        format!("{:.1} h", second / 3600.0)
    } else if length > 600.0 {
        format!("{:.0} min", second / 60.0)
    } else {
        format!("{second:.0} s")
    }
}

/// Text that cannot become markup.
pub(crate) fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;")
}
