//! `layra-worker bench text`: pages of text through the `minilm` family.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use candle_core::{DType, Device, Tensor};
use clap::Args;
use serde::Serialize;

use super::cpu_of_process;
use crate::embed::minilm::{BATCH_TOKENS, MiniLm};
use crate::embed::{Embedder, PageInput, Prepared, batch_size};

/// Measure how fast a `minilm` checkpoint embeds pages of text
///
/// Compares with the largest matrix product of the same shape as the model's own.
/// `RAYON_NUM_THREADS` sets the number of CPU threads.
#[derive(Debug, Args)]
pub struct TextArgs {
    /// Directory with the checkpoint
    #[arg(long, value_name = "DIR")]
    model: PathBuf,

    /// The pages: one text file each
    #[arg(required = true, value_name = "FILE")]
    pages: Vec<PathBuf>,

    /// Passes over all pages; the fastest counts
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
    /// The model alone.
    seconds: f64,
    cpu_seconds: f64,
    gflops: f64,
    /// Of one product with the tensor library, and with the worker's own.
    product_gflops: [f64; 2],
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
        passages: prepared.iter().map(MiniLm::passages_of).sum(),
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
        product_gflops: [0.0; 2],
    };
    for _ in 0..args.passes {
        // Products before and after each pass: the machine may have other work.
        report.best_product(products(&model)?);
        let (start, cpu) = (Instant::now(), cpu_of_process());
        let vectors = forward(&model, &prepared)?;
        report.seconds = report.seconds.min(start.elapsed().as_secs_f64());
        let cpu = cpu_of_process().saturating_sub(cpu).as_secs_f64();
        report.cpu_seconds = report.cpu_seconds.min(cpu);
        if let Some(file) = &args.vectors {
            std::fs::write(file, serde_json::to_vec(&vectors)?)?;
        }
    }
    report.best_product(products(&model)?);
    report.gflops = report.gflop / report.seconds;
    serde_json::to_writer(&mut *output, &report)?;
    writeln!(output)?;
    Ok(())
}

impl Report {
    fn best_product(&mut self, found: [f64; 2]) {
        for (best, found) in self.product_gflops.iter_mut().zip(found) {
            *best = best.max(found);
        }
    }
}

/// All pages, in batches as the pipeline makes them. Returns the first vector of each.
fn forward(model: &MiniLm, pages: &[Prepared]) -> anyhow::Result<Vec<Vec<f32>>> {
    let mut first = Vec::with_capacity(pages.len());
    let mut rest: Vec<&Prepared> = pages.iter().collect();
    while !rest.is_empty() {
        let size = batch_size(rest.iter().map(|page| page.tokens), model.batch_tokens());
        let batch: Vec<&Prepared> = rest.drain(..size).collect();
        for page in model.forward(model.upload(&batch)?)? {
            first.extend(page.rows().next().map(<[f32]>::to_vec));
        }
    }
    Ok(first)
}

/// Operations a second, in 10^9, of the model's largest product: by the tensor library, and laid
/// out as the model has it.
fn products(model: &MiniLm) -> anyhow::Result<[f64; 2]> {
    let rows = BATCH_TOKENS;
    let product = model.product()?;
    let (inputs, outputs) = model.largest_product();
    let a = Tensor::ones((rows, inputs), DType::F32, &Device::Cpu)?;
    let b = Tensor::ones((outputs, inputs), DType::F32, &Device::Cpu)?;
    let operations = 2.0 * (rows * inputs * outputs) as f64;
    let best = |product: &dyn Fn() -> anyhow::Result<()>| -> anyhow::Result<f64> {
        let mut best = Duration::MAX;
        for _ in 0..100 {
            let start = Instant::now();
            product()?;
            best = best.min(start.elapsed());
        }
        Ok(operations / best.as_secs_f64() / 1e9)
    };
    Ok([
        best(&|| Ok(a.matmul(&b.t()?).map(drop)?))?,
        best(&|| Ok(product(&a).map(drop)?))?,
    ])
}
