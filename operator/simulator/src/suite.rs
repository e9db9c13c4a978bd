//! The comparison of this operator with its peers: every synthetic trace with three start-up times.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::ValueEnum as _;
use serde::Serialize;

use super::{
    policies::Peer,
    scenario::Scenario,
    shapes::Shape,
    simulation::{Figures, Outcome},
    svg, table,
};

/// Start-up times that are compared: a warm container, an existing node, a node to be provisioned.
const STARTUPS: [u32; 3] = [10, 120, 480];
/// The start-up time that is drawn.
const DRAWN: u32 = 120;

/// All results.
#[derive(Debug, Serialize)]
pub(super) struct Suite {
    cells: Vec<Cell>,
}

/// A trace with a start-up time.
#[derive(Debug, Serialize)]
struct Cell {
    trace: String,
    startup_seconds: u32,
    policies: BTreeMap<&'static str, Figures>,
    /// Peers with fewer GPU-seconds.
    fewer_gpu_seconds: Vec<&'static str>,
    /// Peers with fewer seconds over the target.
    fewer_seconds_over_target: Vec<&'static str>,
    /// Peers that are better on one of the two and no worse on the other.
    dominated_by: Vec<&'static str>,
    /// Peers that are better on both.
    beaten_on_both_by: Vec<&'static str>,
}

/// Runs everything. With `pictures`, draws each trace into that folder.
pub(super) fn run(
    scenario: &Scenario,
    peers: &[Peer],
    pictures: Option<&PathBuf>,
) -> anyhow::Result<Suite> {
    let mut cells = Vec::new();
    for shape in Shape::value_variants() {
        let trace = shape.trace(scenario.setup.seed);
        for startup_seconds in STARTUPS {
            let mut scenario = scenario.clone();
            scenario.setup.startup_seconds = startup_seconds;
            let outcomes = scenario.run(&trace, peers);
            if let Some(folder) = pictures
                && startup_seconds == DRAWN
            {
                let title = format!("{}, start-up {startup_seconds} s", shape.name());
                let picture = svg::draw(&title, &outcomes, scenario.drain_target());
                write(&folder.join(format!("{}.svg", shape.name())), &picture)?;
            }
            cells.push(Cell::new(shape.name(), startup_seconds, &outcomes));
        }
    }
    Ok(Suite { cells })
}

/// Writes a picture, and creates its folder if that is missing.
pub(super) fn write(path: &Path, picture: &str) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("--svg: the folder {} cannot be created", folder.display()))?;
    }
    std::fs::write(path, picture)
        .with_context(|| format!("--svg: {} cannot be written", path.display()))
}

impl Cell {
    fn new(trace: String, startup_seconds: u32, outcomes: &[Outcome]) -> Self {
        let own = outcomes[0].figures;
        let peers_that = |is_better: fn(&Figures, &Figures) -> bool| {
            let peers = outcomes[1..].iter();
            peers
                .filter(|peer| is_better(&peer.figures, &own))
                .map(|peer| peer.policy)
                .collect()
        };
        Self {
            trace,
            startup_seconds,
            policies: outcomes
                .iter()
                .map(|outcome| (outcome.policy, outcome.figures))
                .collect(),
            fewer_gpu_seconds: peers_that(|peer, own| peer.gpu_seconds < own.gpu_seconds),
            fewer_seconds_over_target: peers_that(|peer, own| {
                peer.seconds_over_target < own.seconds_over_target
            }),
            dominated_by: peers_that(|peer, own| {
                peer.gpu_seconds <= own.gpu_seconds
                    && peer.seconds_over_target <= own.seconds_over_target
                    && (peer.gpu_seconds, peer.seconds_over_target)
                        != (own.gpu_seconds, own.seconds_over_target)
            }),
            beaten_on_both_by: peers_that(|peer, own| {
                peer.gpu_seconds < own.gpu_seconds
                    && peer.seconds_over_target < own.seconds_over_target
            }),
        }
    }
}

impl Suite {
    /// A line for each cell with `GPU-seconds / seconds over the target` of each policy, and lists
    /// of the cells in which peers are better.
    pub(super) fn table(&self) -> String {
        let mut names: Vec<&str> = Vec::new();
        if let Some(cell) = self.cells.first() {
            names.extend(cell.policies.keys().filter(|name| **name == "layra"));
            names.extend(cell.policies.keys().filter(|name| **name != "layra"));
        }
        let mut header = vec!["trace".to_owned(), "start-up".to_owned()];
        header.extend(names.iter().map(|name| (*name).to_owned()));
        let mut rows = vec![header];
        for cell in &self.cells {
            let mut row = vec![cell.trace.clone(), format!("{} s", cell.startup_seconds)];
            row.extend(names.iter().map(|name| figures(&cell.policies[name])));
            rows.push(row);
        }
        let mut text = table::aligned(&rows);
        text +=
            "\nGPU-seconds / seconds over the drain target; *: documents were left unprocessed.\n";
        text += &self.list("A peer is better on both", |cell| &cell.beaten_on_both_by);
        text += &self.list("A peer is better on one and equal on the other", |cell| {
            &cell.dominated_by
        });
        text += &self.list("A peer has fewer GPU-seconds", |cell| {
            &cell.fewer_gpu_seconds
        });
        text += &self.list("A peer has fewer seconds over the target", |cell| {
            &cell.fewer_seconds_over_target
        });
        text
    }

    fn list(&self, title: &str, peers: fn(&Cell) -> &Vec<&'static str>) -> String {
        let lines: Vec<String> = self
            .cells
            .iter()
            .filter(|cell| !peers(cell).is_empty())
            .map(|cell| {
                let names = peers(cell).join(", ");
                format!("  {}, {} s: {names}\n", cell.trace, cell.startup_seconds)
            })
            .collect();
        let count = format!("{} of {} cells", lines.len(), self.cells.len());
        format!("\n{title}: {count}\n{}", lines.concat())
    }
}

fn figures(figures: &Figures) -> String {
    let left = if figures.unfinished_documents > 0 {
        "*"
    } else {
        ""
    };
    format!(
        "{} / {}{left}",
        figures.gpu_seconds, figures.seconds_over_target
    )
}
