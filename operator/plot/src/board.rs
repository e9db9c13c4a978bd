//! Panels beside and below each other over one time axis, as a dashboard has them.

use std::fmt::Write as _;

use crate::frame::{Frame, escaped, time};
use crate::{GREY, Line};

const WIDTH: f64 = 1440.0;
/// A panel takes some of them.
const COLUMNS: u32 = 24;
const HEIGHT: f64 = 200.0;
const GAP: f64 = 6.0;
const MARGIN: f64 = 12.0;
/// Of a panel, for the numbers of its scale.
const SCALE: f64 = 58.0;
const LINE_HEIGHT: f64 = 14.0;
/// On average, of a letter of the legend.
const LETTER: f64 = 6.1;
const INK: &str = "#1c2430";
const PALE: &str = "#dfe5ec";

/// A picture that grows downwards.
#[derive(Clone, Debug)]
pub struct Board {
    body: String,
    top: f64,
    seconds: f64,
    marks: Vec<Mark>,
}

/// A moment, drawn in every panel with a time axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    /// When.
    pub second: f64,
    /// A CSS colour.
    pub colour: &'static str,
}

/// A panel of a board.
#[derive(Clone, Debug)]
pub struct Tile<'a> {
    /// Shown above it.
    pub title: &'a str,
    /// Columns left of it, of 24.
    pub column: u32,
    /// Columns that it takes, of 24.
    pub columns: u32,
    /// What it shows.
    pub content: Content<'a>,
}

/// What a panel shows.
#[derive(Clone, Debug)]
pub enum Content<'a> {
    /// Values over the time.
    Lines {
        /// Drawn in this order.
        lines: Vec<Line<'a>>,
        /// The value at the top, as a number and as a text; the bottom is 0.
        highest: (f64, String),
        /// Name and colour of each series.
        legend: Vec<(String, &'a str)>,
    },
    /// Bars below each other.
    Bars(Vec<Bar<'a>>),
    /// One value.
    Number(String),
    /// Lines of cells; the first is the head.
    Table(Vec<Vec<String>>),
    /// A text in its place, for example that there are no data.
    Nothing(&'a str),
}

/// A bar over the time, in parts of different colours.
#[derive(Clone, Debug)]
pub struct Bar<'a> {
    /// Shown before it.
    pub name: String,
    /// From when to when, and the colour.
    pub parts: Vec<(f64, f64, &'a str)>,
}

impl Board {
    /// A board of this many seconds.
    #[must_use]
    pub fn new(seconds: f64, marks: Vec<Mark>) -> Self {
        Self {
            body: String::new(),
            top: MARGIN,
            seconds: seconds.max(1.0),
            marks,
        }
    }

    /// Adds the title, which must come first.
    pub fn title(&mut self, text: &str) {
        self.top += 20.0;
        self.text(MARGIN, self.top, 19, INK, text);
        self.top += GAP;
    }

    /// Adds a line of text in this colour.
    pub fn note(&mut self, text: &str, colour: &str) {
        self.top += LINE_HEIGHT + 2.0;
        self.text(MARGIN, self.top, 12, colour, text);
    }

    /// Adds a heading above the panels that follow.
    pub fn heading(&mut self, text: &str) {
        self.top += 28.0;
        self.text(MARGIN, self.top, 14, INK, text);
        self.top += 8.0;
    }

    /// Adds panels that stand beside each other.
    pub fn tiles(&mut self, tiles: &[Tile<'_>]) {
        for tile in tiles {
            self.tile(tile);
        }
        self.top += HEIGHT + GAP;
    }

    /// The SVG document.
    #[must_use]
    pub fn finish(self) -> String {
        let height = self.top + MARGIN;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" font-family=\"system-ui, sans-serif\">\n\
             <rect width=\"{WIDTH}\" height=\"{height:.0}\" fill=\"#f6f8fa\"/>\n\
             {}</svg>\n",
            self.body
        )
    }

    fn tile(&mut self, tile: &Tile<'_>) {
        let column = (WIDTH - 2.0 * MARGIN) / f64::from(COLUMNS);
        let left = MARGIN + column * f64::from(tile.column);
        let width = column * f64::from(tile.columns) - GAP;
        let top = self.top;
        self.add(&format!(
            "<rect x=\"{left:.0}\" y=\"{top:.0}\" width=\"{width:.0}\" height=\"{HEIGHT}\" rx=\"3\" fill=\"#fff\" stroke=\"{PALE}\"/>"
        ));
        self.text(left + 8.0, top + 18.0, 12, INK, tile.title);
        let inner = Frame {
            left: left + SCALE,
            right: left + width - 12.0,
            top: top + 32.0,
            base: top + HEIGHT - 12.0,
            seconds: self.seconds,
            highest: 1.0,
        };
        match &tile.content {
            Content::Lines {
                lines,
                highest,
                legend,
            } => self.lines(inner, lines, highest, legend),
            Content::Bars(bars) => self.bars(inner, bars),
            Content::Number(number) => {
                self.text(left + 10.0, top + HEIGHT / 2.0 + 16.0, 32, INK, number);
            }
            Content::Table(rows) => self.table(left + 8.0, left + width, top + 40.0, rows),
            Content::Nothing(text) => {
                self.text(left + 10.0, top + HEIGHT / 2.0, 12, GREY, text);
            }
        }
    }

    fn lines(
        &mut self,
        inner: Frame,
        lines: &[Line<'_>],
        (highest, shown): &(f64, String),
        legend: &[(String, &str)],
    ) {
        let places = places(legend, inner.right - inner.left);
        let rows = places.last().map_or(0, |(_, row)| row + 1);
        let base = inner.base - LINE_HEIGHT * (f64::from(rows) + 1.0) - 4.0;
        let frame = Frame {
            base,
            highest: *highest,
            ..inner
        };
        for (y, text) in [(frame.top + 5.0, shown.as_str()), (base + 4.0, "0")] {
            self.right_text(frame.left - 6.0, y, text);
        }
        for y in [frame.top, base] {
            self.horizontal(&frame, y);
        }
        self.axis(&frame);
        for line in lines {
            let (path, colour) = (frame.path(line), line.colour);
            self.add(&format!(
                "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>"
            ));
        }
        for ((name, colour), (x, row)) in legend.iter().zip(places) {
            let x = frame.left + x;
            let y = base + LINE_HEIGHT * (f64::from(row) + 2.0) + 4.0;
            self.add(&format!(
                "<path d=\"M{x:.0} {:.0}h10\" stroke=\"{colour}\" stroke-width=\"3\"/>",
                y - 4.0
            ));
            self.text(x + 14.0, y, 11, INK, name);
        }
    }

    fn bars(&mut self, inner: Frame, bars: &[Bar<'_>]) {
        let frame = Frame {
            // Names are longer than numbers.
            left: inner.left + 80.0,
            base: inner.base - LINE_HEIGHT,
            ..inner
        };
        let height = (frame.base - frame.top) / (bars.len().max(1) as f64);
        let height = height.min(22.0);
        let mut y = frame.top;
        for Bar { name, parts } in bars {
            self.right_text(frame.left - 6.0, y + height / 2.0 + 4.0, name);
            for (from, to, colour) in parts {
                let (x, end) = (frame.x(*from), frame.x(*to));
                self.add(&format!(
                    "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\"/>",
                    end - x,
                    height - 2.0
                ));
            }
            y += height;
        }
        self.axis(&frame);
    }

    /// The times below a panel, and the marks in it.
    fn axis(&mut self, frame: &Frame) {
        for tick in 0..=3 {
            let second = self.seconds * f64::from(tick) / 3.0;
            let (x, y) = (frame.x(second), frame.base + LINE_HEIGHT);
            let anchor = if tick == 3 { "end" } else { "middle" };
            let label = time(second, self.seconds);
            self.add(&format!(
                "<text x=\"{x:.0}\" y=\"{y:.0}\" font-size=\"10\" text-anchor=\"{anchor}\" fill=\"{GREY}\">{label}</text>"
            ));
        }
        for mark in self.marks.clone() {
            let (x, colour) = (frame.x(mark.second), mark.colour);
            self.add(&format!(
                "<path d=\"M{x:.1} {:.0}V{:.0}\" stroke=\"{colour}\" stroke-dasharray=\"3 3\"/>",
                frame.top, frame.base
            ));
        }
    }

    fn table(&mut self, left: f64, right: f64, top: f64, rows: &[Vec<String>]) {
        let columns = rows.first().map_or(1, Vec::len).max(1);
        // The first column is twice as wide: it has the names.
        let width = (right - left) / (columns as f64 + 1.0);
        let mut y = top;
        for (line, row) in rows.iter().enumerate() {
            let colour = if line == 0 { GREY } else { INK };
            let mut x = left;
            for (number, cell) in row.iter().enumerate() {
                self.text(x, y, 11, colour, cell);
                x += if number == 0 { 2.0 * width } else { width };
            }
            y += LINE_HEIGHT + 6.0;
        }
    }

    fn horizontal(&mut self, frame: &Frame, y: f64) {
        let (left, right) = (frame.left, frame.right);
        self.add(&format!(
            "<path d=\"M{left:.0} {y:.0}H{right:.0}\" stroke=\"{PALE}\"/>"
        ));
    }

    fn right_text(&mut self, x: f64, y: f64, text: &str) {
        let text = escaped(text);
        self.add(&format!(
            "<text x=\"{x:.0}\" y=\"{y:.0}\" font-size=\"10\" text-anchor=\"end\" fill=\"{GREY}\">{text}</text>"
        ));
    }

    fn text(&mut self, x: f64, y: f64, size: u32, colour: &str, text: &str) {
        let text = escaped(text);
        self.add(&format!(
            "<text x=\"{x:.0}\" y=\"{y:.0}\" font-size=\"{size}\" fill=\"{colour}\">{text}</text>"
        ));
    }

    fn add(&mut self, element: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.body, "{element}");
    }
}

/// Where each name of a legend begins, and in which of its rows it is.
fn places(legend: &[(String, &str)], width: f64) -> Vec<(f64, u32)> {
    let (mut x, mut row) = (0.0, 0);
    let mut places = Vec::new();
    for (name, _) in legend {
        let needed = 30.0 + LETTER * (name.chars().count() as f64);
        if x > 0.0 && x + needed > width {
            (x, row) = (0.0, row + 1);
        }
        places.push((x, row));
        x += needed;
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Shape;

    fn board(content: Content<'_>) -> String {
        let mark = Mark {
            second: 5.0,
            colour: "orange",
        };
        let mut board = Board::new(10.0, vec![mark]);
        board.tiles(&[Tile {
            title: "A & B",
            column: 12,
            columns: 12,
            content,
        }]);
        board.finish()
    }

    #[test]
    fn a_line_a_mark_and_the_name_of_a_series_are_in_their_panel() {
        let svg = board(Content::Lines {
            lines: vec![Line {
                points: vec![(0.0, 0.0), (10.0, 2.0)],
                colour: "blue",
                shape: Shape::Straight,
                dashed: false,
            }],
            highest: (2.0, "2 s".to_owned()),
            legend: vec![("<pod>".to_owned(), "blue")],
        });
        // The right half is 708 wide from 720 on; 58 and 12 of it are left free beside the line.
        assert!(svg.contains("d=\"M778.0 168.0L1410.0 44.0\""), "{svg}");
        assert!(
            svg.contains("d=\"M1094.0 44V168\" stroke=\"orange\""),
            "{svg}"
        );
        assert!(svg.contains(">2 s</text>") && svg.contains(">&lt;pod&gt;</text>"));
        assert!(svg.contains(">A &amp; B</text>"), "{svg}");
    }

    #[test]
    fn bars_tables_and_numbers_have_their_texts() {
        let bars = board(Content::Bars(vec![Bar {
            name: "Ready".to_owned(),
            parts: vec![(0.0, 5.0, "grey"), (5.0, 10.0, "blue")],
        }]));
        assert!(bars.contains(">Ready</text>") && bars.contains("fill=\"grey\"/>"));
        let cells = |row: [&str; 2]| row.map(str::to_owned).to_vec();
        let table = board(Content::Table(vec![
            cells(["pipeline", "Ready"]),
            cells(["rag/contracts", "1"]),
        ]));
        assert!(table.contains(">rag/contracts</text>"), "{table}");
        assert!(board(Content::Number("7 k".to_owned())).contains(">7 k</text>"));
        assert!(board(Content::Nothing("no data")).contains(">no data</text>"));
    }

    #[test]
    fn a_long_legend_takes_several_rows() {
        let names: Vec<(String, &str)> = (0..9).map(|n| (format!("series {n}"), "red")).collect();
        let places = places(&names, 250.0);
        assert_eq!(places[0], (0.0, 0));
        assert_eq!(places.last().unwrap().1, 2, "{places:?}");
    }
}
