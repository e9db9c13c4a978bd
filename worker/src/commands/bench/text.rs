//! `layra-worker bench text`: pages of text through the `minilm` family.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use layra_embedding::minilm::MiniLm;
use layra_embedding::{EmbedError, Embedder, MultiVector, PageInput, Prepared, batch_size};
use serde::Serialize;

use super::cpu_of_process;

/// Measure how fast a `minilm` checkpoint embeds pages of text
///
/// Compares with the model's largest matrix product alone, in turns of the same length: whatever
/// else the machine does slows both. `RAYON_NUM_THREADS` sets the number of CPU threads.
#[derive(Debug, Args)]
pub struct TextArgs {
    /// Directory with the checkpoint
    #[arg(long, value_name = "DIR")]
    model: PathBuf,

    /// The pages: one text file each
    #[arg(required = true, value_name = "FILE")]
    pages: Vec<PathBuf>,

    /// Passes over all pages
    #[arg(long, default_value_t = 3)]
    passes: u32,

    /// Write the first vector of each page, as JSON
    #[arg(long, value_name = "FILE")]
    vectors: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Report {
    threads: usize,
    pages: usize,
    passages: usize,
    tokens: usize,
    gflop: f64,
    /// Cutting text into tokens, on one thread.
    tokenize_cpu_seconds: f64,
    /// The model alone, of the fastest pass.
    seconds: f64,
    cpu_seconds: f64,
    /// Of all passes together: the model, and its largest product.
    gflops: f64,
    product_gflops: f64,
}

/// Runs the command. Writes one JSON object.
pub fn run(args: &TextArgs, output: &mut impl Write) -> anyhow::Result<()> {
    let model = MiniLm::load(&args.model)?;
    let texts = args
        .pages
        .iter()
        .map(|file| std::fs::read_to_string(file).with_context(|| file.display().to_string()));
    let texts = texts.collect::<anyhow::Result<Vec<String>>>()?;
    let before = super::cpu_of_thread();
    let prepared = texts.iter().map(|text| {
        let pixels = None;
        model.prepare(&PageInput { text, pixels })
    });
    let prepared = prepared.collect::<Result<Vec<Prepared>, _>>()?;
    let tokenize = super::cpu_of_thread().saturating_sub(before);
    let mut report = Report {
        threads: rayon::current_num_threads(),
        pages: prepared.len(),
        passages: prepared
            .iter()
            .filter_map(Prepared::passages)
            .map(<[_]>::len)
            .sum(),
        tokens: prepared.iter().map(|page| page.tokens).sum(),
        gflop: prepared
            .iter()
            .map(|page| model.operations(page))
            .sum::<f64>()
            / 1e9,
        tokenize_cpu_seconds: tokenize.as_secs_f64(),
        seconds: f64::INFINITY,
        cpu_seconds: f64::INFINITY,
        gflops: 0.0,
        product_gflops: 0.0,
    };
    let (mut total, mut product) = (Duration::ZERO, Rate::default());
    for _ in 0..args.passes {
        let pass = forward(&model, &prepared, &mut product)?;
        report.seconds = report.seconds.min(pass.time.as_secs_f64());
        report.cpu_seconds = report.cpu_seconds.min(pass.cpu.as_secs_f64());
        total += pass.time;
        if let Some(file) = &args.vectors {
            std::fs::write(file, serde_json::to_vec(&pass.vectors)?)?;
        }
    }
    report.gflops = report.gflop * f64::from(args.passes) / total.as_secs_f64();
    report.product_gflops = product.gflops();
    serde_json::to_writer(&mut *output, &report)?;
    writeln!(output)?;
    Ok(())
}

/// What was computed in which time.
#[derive(Default)]
struct Rate {
    operations: f64,
    time: Duration,
}

impl Rate {
    fn gflops(&self) -> f64 {
        self.operations / self.time.as_secs_f64() / 1e9
    }
}

/// All pages once.
#[derive(Default)]
struct Pass {
    time: Duration,
    cpu: Duration,
    /// The first vector of each page.
    vectors: Vec<Vec<f32>>,
}

/// All pages, in batches as the pipeline makes them. After each the model's largest product takes
/// its turn, on all threads, for as long.
fn forward(model: &MiniLm, pages: &[Prepared], product: &mut Rate) -> anyhow::Result<Pass> {
    let mut pass = Pass::default();
    let mut rest: Vec<&Prepared> = pages.iter().collect();
    while !rest.is_empty() {
        let size = batch_size(rest.iter().map(|page| page.tokens), model.batch_tokens());
        let batch: Vec<&Prepared> = rest.drain(..size).collect();
        let (start, cpu) = (Instant::now(), cpu_of_process());
        let vectors = model.forward(model.upload(&batch)?)?;
        let turn = start.elapsed();
        pass.time += turn;
        pass.cpu += cpu_of_process().saturating_sub(cpu);
        let first = |page: &MultiVector| page.rows().next().map(<[f32]>::to_vec);
        pass.vectors.extend(vectors.iter().filter_map(first));

        let start = Instant::now();
        let counts = rayon::broadcast(|_| {
            let mut operations = 0.0;
            while start.elapsed() < turn {
                operations += model.largest_product()?;
            }
            Ok(operations)
        });
        product.time += start.elapsed();
        product.operations += counts.into_iter().sum::<Result<f64, EmbedError>>()?;
    }
    Ok(pass)
}
