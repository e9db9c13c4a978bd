//! Measures exact `MaxSim`. `e2e/bench/max_sim.py` compares it with numpy on the same vectors.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, ensure};
use clap::Parser;
use half::f16;
use layra_search::{Question, Vectors, rank};
use rayon::prelude::*;
use serde_json::json;

/// Measure how fast a question is compared exactly with many pages
///
/// Also measures how fast the same bytes are only read, which bounds it. `RAYON_NUM_THREADS` sets the
/// number of CPU threads. Prints one JSON object.
#[derive(Debug, Parser)]
struct Arguments {
    /// Vectors of the pages: 32-bit floats, little-endian, page after page
    #[arg(long, value_name = "FILE")]
    pages: PathBuf,

    /// Vectors of the question, in the same form
    #[arg(long, value_name = "FILE")]
    question: PathBuf,

    /// Vectors of a page
    #[arg(long)]
    rows: usize,

    /// Numbers of a vector
    #[arg(long)]
    width: usize,

    /// Number of passes over all pages
    #[arg(long, default_value_t = 3)]
    passes: u32,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let (rows, width) = (arguments.rows, arguments.width);
    let pages = read(&arguments.pages)?;
    let question = read(&arguments.question)?;
    let page = rows * width;
    ensure!(
        page > 0 && pages.len().is_multiple_of(page),
        "an incomplete page"
    );
    let count = pages.len() / page;
    let halves: Vec<f16> = pages.iter().map(|value| f16::from_f32(*value)).collect();
    let asked = Question::new(width, &question);

    let f32_pages = |index: usize| Vectors::F32(&pages[index * page..(index + 1) * page]);
    let f16_pages = |index: usize| Vectors::F16(&halves[index * page..(index + 1) * page]);
    let f32_seconds = fastest(arguments.passes, || rank(&asked, &f32_pages, count, 10));
    let f16_seconds = fastest(arguments.passes, || rank(&asked, &f16_pages, count, 10));
    let read_seconds = fastest(arguments.passes, || {
        let sums = pages.par_chunks(page).map(|page| page.iter().sum::<f32>());
        sums.sum::<f32>()
    });
    // The page's number and its score, to be compared with numpy's.
    let best = rank(&asked, &f32_pages, count, 10);
    let best: Vec<(usize, f32)> = best.iter().map(|it| (it.index, it.score)).collect();
    let report = json!({
        "threads": rayon::current_num_threads(),
        "f32_seconds": f32_seconds,
        "f16_seconds": f16_seconds,
        "read_seconds": read_seconds,
        "bytes": 4 * pages.len(),
        "gflop": 2e-9 * pages.len() as f64 * asked.len() as f64,
        "best": best,
    });
    println!("{report}");
    Ok(())
}

/// Seconds of the fastest of some passes.
fn fastest<T>(passes: u32, work: impl Fn() -> T) -> f64 {
    let pass = |_| {
        let began = Instant::now();
        black_box(work());
        began.elapsed().as_secs_f64()
    };
    (0..passes.max(1)).map(pass).fold(f64::INFINITY, f64::min)
}

fn read(file: &Path) -> anyhow::Result<Vec<f32>> {
    let bytes = std::fs::read(file).with_context(|| file.display().to_string())?;
    let (values, rest) = bytes.as_chunks::<4>();
    ensure!(rest.is_empty(), "{}: incomplete", file.display());
    Ok(values.iter().map(|it| f32::from_le_bytes(*it)).collect())
}
