//! Measures how fast a `minilm` checkpoint embeds pages of text. `e2e/bench/text.py` compares it
//! with Python.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use layra_embedding::minilm::MiniLm;
use layra_embedding::{EmbedError, Embedder, MultiVector, PageInput, Prepared, batch_size};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// Measure how fast a `minilm` checkpoint embeds pages of text
///
/// Compares with the model's largest matrix product alone, in alternating turns of the same length,
/// so that other load slows down both. `RAYON_NUM_THREADS` sets the number of CPU threads. Prints
/// one JSON object.
#[derive(Debug, Parser)]
struct Arguments {
    /// Directory with the checkpoint
    #[arg(long, value_name = "DIR")]
    model: PathBuf,

    /// Text files, one for each page
    #[arg(required = true, value_name = "FILE")]
    pages: Vec<PathBuf>,

    /// Number of passes over all pages
    #[arg(long, default_value_t = 3)]
    passes: u32,

    /// Write the first vector of each page to this JSON file
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
    /// Tokenization on one thread.
    tokenize_cpu_seconds: f64,
    /// The fastest pass of the model.
    seconds: f64,
    cpu_seconds: f64,
    /// All passes of the model, and all turns of its largest product.
    gflops: f64,
    product_gflops: f64,
}

fn main() -> anyhow::Result<()> {
    let args = Arguments::parse();
    let model = MiniLm::load(&args.model)?;
    let texts = args
        .pages
        .iter()
        .map(|file| std::fs::read_to_string(file).with_context(|| file.display().to_string()));
    let texts = texts.collect::<anyhow::Result<Vec<String>>>()?;
    let before = thread_cpu();
    let prepared = texts.iter().map(|text| {
        let pixels = None;
        model.prepare(&PageInput { text, pixels })
    });
    let prepared = prepared.collect::<Result<Vec<Prepared>, _>>()?;
    let tokenize = thread_cpu().saturating_sub(before);
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
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

/// Operations and the time that they took.
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

/// One pass over all pages.
#[derive(Default)]
struct Pass {
    time: Duration,
    cpu: Duration,
    /// The first vector of each page.
    vectors: Vec<Vec<f32>>,
}

/// One pass over all pages, in the pipeline's batches. After each batch the model's largest product
/// runs on all threads for the same time.
fn forward(model: &MiniLm, pages: &[Prepared], product: &mut Rate) -> anyhow::Result<Pass> {
    let mut pass = Pass::default();
    let mut rest: Vec<&Prepared> = pages.iter().collect();
    while !rest.is_empty() {
        let size = batch_size(rest.iter().map(|page| page.tokens), model.batch_tokens());
        let batch: Vec<&Prepared> = rest.drain(..size).collect();
        let (start, cpu) = (Instant::now(), process_cpu());
        let vectors = model.forward(model.upload(&batch)?)?;
        let turn = start.elapsed();
        pass.time += turn;
        pass.cpu += process_cpu().saturating_sub(cpu);
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

/// CPU time of this process so far, of all threads.
fn process_cpu() -> Duration {
    cpu(ClockId::ProcessCPUTime)
}

/// CPU time of this thread so far.
fn thread_cpu() -> Duration {
    cpu(ClockId::ThreadCPUTime)
}

fn cpu(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or_default();
    Duration::from_secs(seconds) + Duration::from_nanos(nanoseconds)
}
