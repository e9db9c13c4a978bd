//! All samples of a run: written to a file at once, and drawn and summed up now and then, so that a
//! run that is killed leaves them.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result};
use layra_plot::board::{Board, Content, Mark, Tile};
use layra_plot::{Line, Shape};
use serde_json::json;

use super::sample::Sample;
use super::series::{PANELS, Series, series, table};

static COLOURS: [&str; 8] = [
    "#1d4ed8", "#c2410c", "#047857", "#6d28d9", "#b45309", "#0e7490", "#be185d", "#5a6675",
];
const MARK: &str = "#f0b429";

/// The record of a run.
pub(super) struct Journal {
    folder: PathBuf,
    file: File,
    samples: Vec<Sample>,
    events: Vec<f64>,
}

impl Journal {
    /// An empty one in this folder, in place of an earlier one.
    pub(super) fn create(folder: PathBuf) -> Result<Self> {
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let file = File::create(folder.join("samples.jsonl"))?;
        Ok(Self {
            folder,
            file,
            samples: Vec::new(),
            events: Vec::new(),
        })
    }

    pub(super) fn add(&mut self, sample: Sample) -> Result<()> {
        writeln!(self.file, "{}", serde_json::to_string(&sample)?)?;
        self.samples.push(sample);
        Ok(())
    }

    pub(super) fn event(&mut self, second: f64, text: &str) -> Result<()> {
        println!("{second:>6.0} s  {text}");
        writeln!(self.file, "{}", json!({"second": second, "event": text}))?;
        self.events.push(second);
        Ok(())
    }

    /// Writes `soak.svg` and `soak.md`. Returns the table.
    pub(super) fn draw(&self) -> Result<String> {
        let series = series(&self.samples);
        let table = table(&series);
        fs::write(self.folder.join("soak.svg"), self.picture(&series))?;
        fs::write(self.folder.join("soak.md"), &table)?;
        Ok(table)
    }

    fn picture(&self, series: &[Series]) -> String {
        let last = self.samples.last();
        let seconds = last.map_or(1.0, |sample| sample.second);
        let marks = self.events.iter().map(|second| Mark {
            second: *second,
            colour: MARK,
        });
        let mut board = Board::new(seconds, marks.collect());
        let hours = seconds / 3600.0;
        let sent = last.map_or(0, |sample| sample.sent);
        board.title(&format!("{hours:.1} hours, {sent} documents"));
        board.note("Dashed: a fault, a rebuild, a run of retention.", MARK);
        for panels in PANELS.chunks(2) {
            let tiles: Vec<Tile<'_>> = (0..)
                .zip(panels)
                .map(|(index, panel)| Tile {
                    title: panel,
                    column: 12 * index,
                    columns: 12,
                    content: content(panel, series),
                })
                .collect();
            board.tiles(&tiles);
        }
        board.finish()
    }
}

fn content(panel: &str, series: &[Series]) -> Content<'static> {
    let (mut lines, mut legend) = (Vec::new(), Vec::new());
    let shown = series.iter().filter(|series| series.panel == panel);
    for (series, &colour) in shown.zip(COLOURS.iter().cycle()) {
        legend.push((series.name.clone(), colour));
        lines.extend(series.lives.values().map(|life| Line {
            points: life.iter().map(|it| (it.second, it.value)).collect(),
            colour,
            shape: Shape::Straight,
            dashed: false,
        }));
    }
    let values = lines.iter().flat_map(|line| &line.points);
    let highest = values.map(|(_, value)| *value).fold(1.0, f64::max);
    Content::Lines {
        lines,
        highest: (highest, format!("{highest:.0}")),
        legend,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::soak::series::tests::samples;

    #[test]
    fn a_run_leaves_its_samples_its_events_and_a_picture() {
        let folder = tempfile::TempDir::new().unwrap();
        let mut journal = Journal::create(folder.path().join("new")).unwrap();
        for sample in samples() {
            journal.add(sample).unwrap();
        }
        journal.event(60.0, "kill -9 of a worker").unwrap();
        journal.draw().unwrap();
        let read = |name| fs::read_to_string(folder.path().join("new").join(name)).unwrap();
        assert_eq!(read("samples.jsonl").lines().count(), 121);
        assert!(read("samples.jsonl").contains("\"event\":\"kill -9 of a worker\""));
        let picture = read("soak.svg");
        for text in ["1.0 hours, 119 documents", ">operator<", MARK, ">running<"] {
            assert!(picture.contains(text), "{text}\n{picture}");
        }
        assert!(read("soak.md").contains("asynchronous tasks: operator"));
    }
}
