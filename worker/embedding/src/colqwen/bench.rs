//! `layra-worker bench embed`: measures how fast this machine embeds pages, also relative to the
//! speed of one large matrix product.

use std::io::Write;
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use clap::Args;
use rayon::prelude::*;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use super::cli::ModelArgs;
use super::layers::Linear;
use super::patches::PreparedPage;
use super::{ColQwen, ColQwenError, Result, RgbImage};
use crate::Precision;

/// Measure how fast a ColQwen checkpoint embeds pages
///
/// Measures preprocessing of a synthetic page on all cores, the model for each batch size, and one
/// large matrix product as the peak to compare with. FLOP are those of the model's matrix products.
/// `RAYON_NUM_THREADS` sets the number of CPU threads.
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(flatten)]
    model: ModelArgs,

    /// Precision: f32, tf32, bf16, f16, q8 or q4 [default: bf16 on a GPU, f32 on a CPU]
    #[arg(long)]
    precision: Option<Precision>,

    /// Batch sizes, in pages
    #[arg(long, value_name = "PAGES", value_delimiter = ',', default_values_t = [1, 4, 8])]
    batch: Vec<usize>,

    /// Size of the page in pixels
    #[arg(long, value_name = "WIDTHxHEIGHT", default_value = "1240x1754", value_parser = size)]
    page: (usize, usize),

    /// Minimum duration of each measurement in seconds; the fastest pass counts
    #[arg(long, default_value_t = 5)]
    seconds: u64,

    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    device: String,
    dtype: String,
    threads: usize,
    visual_tokens: usize,
    tokens: usize,
    tflop_per_page: f64,
    /// Memory of the loaded model, in GPU memory if it runs there. `None` if unknown.
    model_bytes: Option<u64>,
    peak_tflops: f64,
    preprocessing_pages_per_second: f64,
    /// CPU time for a page: the time on one thread of an idle machine.
    preprocessing_cpu_seconds: f64,
    batches: Vec<Pass>,
}

/// Result for one batch size.
#[derive(Debug, Serialize)]
struct Pass {
    pages: usize,
    /// `None` if it did not fit into the device's memory.
    seconds: Option<f64>,
    /// Least CPU time of a pass, of all threads.
    cpu_seconds: Option<f64>,
    pages_per_second: f64,
    tflops: f64,
    fraction_of_peak: f64,
    gpu_memory_bytes: Option<u64>,
}

/// Runs the command.
pub fn run(args: &BenchArgs, output: &mut impl Write) -> Result<()> {
    let before = anonymous_memory();
    let model = args.model.load(args.precision)?;
    let model_bytes = model.gpu_memory_bytes().or_else(|| {
        let (before, after) = (before?, anonymous_memory()?);
        Some(after.saturating_sub(before))
    });
    let report = measure(&model, args, model_bytes)?;
    let written = if args.json {
        serde_json::to_writer(&mut *output, &report)
            .map_err(std::io::Error::from)
            .and_then(|()| writeln!(output))
    } else {
        report.write(output)
    };
    written.map_err(ColQwenError::io(std::path::Path::new("standard output")))
}

fn measure(model: &ColQwen, args: &BenchArgs, model_bytes: Option<u64>) -> Result<Report> {
    let (width, height) = args.page;
    let rgb = draw(width, height);
    let image = RgbImage {
        width,
        height,
        rgb: &rgb,
    };
    let least = Duration::from_secs(args.seconds);
    let page = model.prepare(image)?;
    let threads = rayon::current_num_threads();
    let preprocessing = fastest(least, || {
        let prepare = |_| model.prepare(image).map(drop);
        (0..threads).into_par_iter().try_for_each(prepare)
    })?;
    let flops = model.flops(&page);
    let (dtype, device) = (model.model.dtype(), model.model.device());
    let peak = peak(dtype, device, least)?;
    let mut batches = Vec::with_capacity(args.batch.len());
    for &pages in &args.batch {
        batches.push(pass(model, &page, pages.max(1), least, (flops, peak))?);
    }
    Ok(Report {
        device: format!("{:?}", device.location()),
        dtype: format!("{dtype:?}"),
        threads,
        visual_tokens: page.grid.units(),
        tokens: model.tokens(&page),
        tflop_per_page: flops / 1e12,
        model_bytes,
        peak_tflops: peak / 1e12,
        preprocessing_pages_per_second: threads as f64 / preprocessing.wall,
        preprocessing_cpu_seconds: preprocessing.cpu / threads as f64,
        batches,
    })
}

fn pass(
    model: &ColQwen,
    page: &PreparedPage,
    pages: usize,
    least: Duration,
    (flops, peak): (f64, f64),
) -> Result<Pass> {
    let batch = vec![page; pages];
    let best = fastest(least, || model.forward(&model.upload(&batch)?).map(drop));
    let gpu_memory_bytes = model.gpu_memory_bytes();
    let best = match best {
        Err(ColQwenError::OutOfMemory(_)) => {
            model.release_memory();
            None
        }
        best => Some(best?),
    };
    let seconds = best.as_ref().map(|best| best.wall);
    let rate = seconds.map_or(0.0, |seconds| pages as f64 / seconds);
    Ok(Pass {
        pages,
        seconds,
        cpu_seconds: best.map(|best| best.cpu),
        pages_per_second: rate,
        tflops: rate * flops / 1e12,
        fraction_of_peak: rate * flops / peak,
        gpu_memory_bytes,
    })
}

/// Anonymous memory of this process in bytes, without mapped files. `None` if unknown.
fn anonymous_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes << 10)
}

/// Seconds of the fastest pass.
struct Best {
    wall: f64,
    /// CPU time of all threads.
    cpu: f64,
}

/// The fastest of at least two passes, after one to warm up.
fn fastest(least: Duration, mut pass: impl FnMut() -> Result<()>) -> Result<Best> {
    pass()?;
    let begin = Instant::now();
    let mut best = Best {
        wall: f64::INFINITY,
        cpu: f64::INFINITY,
    };
    let mut passes = 0;
    while passes < 2 || begin.elapsed() < least {
        let (start, cpu) = (Instant::now(), cpu_time());
        pass()?;
        best.wall = best.wall.min(start.elapsed().as_secs_f64());
        best.cpu = best.cpu.min(cpu_time() - cpu);
        passes += 1;
    }
    Ok(best)
}

/// CPU time of this process, in seconds.
fn cpu_time() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Operations per second of a large matrix product with a shape as in the towers.
fn peak(dtype: DType, device: &Device, least: Duration) -> Result<f64> {
    let (rows, inner, columns) = if device.is_cpu() {
        (3072, 1024, 4096)
    } else {
        (8192, 8192, 8192)
    };
    let a = Tensor::zeros((rows, inner), dtype, device)?;
    let weight = Tensor::zeros((columns, inner), dtype, device)?;
    let product = Linear::from_tensors(weight, None)?;
    let repeats = 4;
    let best = fastest(least, || {
        for _ in 0..repeats {
            product.forward(&a)?;
        }
        Ok(device.synchronize()?)
    })?;
    let operations = 2.0 * rows as f64 * inner as f64 * columns as f64;
    Ok(f64::from(repeats) * operations / best.wall)
}

/// A synthetic page with grey lines, always the same.
fn draw(width: usize, height: usize) -> Vec<u8> {
    let pixel = |x: usize, y: usize| {
        let ink = y % 24 < 12 && (x * 7 + y / 24 * 13) % 11 < 5;
        if ink { 40 } else { 250 }
    };
    let rows = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
    rows.flat_map(|(x, y)| [pixel(x, y); 3]).collect()
}

fn size(text: &str) -> std::result::Result<(usize, usize), String> {
    let (width, height) = text.split_once('x').ok_or("expected WIDTHxHEIGHT")?;
    let side = |text: &str| match text.parse() {
        Ok(side) if side > 0 => Ok(side),
        _ => Err(format!("{text:?} is not a number of pixels")),
    };
    Ok((side(width)?, side(height)?))
}

fn mebibytes(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "-".to_owned(), |bytes| (bytes >> 20).to_string())
}

impl Report {
    fn write(&self, out: &mut impl Write) -> std::io::Result<()> {
        writeln!(
            out,
            "{} in {}, {} CPU threads; memory of the model: {} MiB",
            self.device,
            self.dtype,
            self.threads,
            mebibytes(self.model_bytes)
        )?;
        writeln!(
            out,
            "{} visual tokens, {} tokens, {:.3} TFLOP per page",
            self.visual_tokens, self.tokens, self.tflop_per_page
        )?;
        writeln!(
            out,
            "preprocessing {:.1} pages/s; one large matrix product {:.3} TFLOP/s",
            self.preprocessing_pages_per_second, self.peak_tflops
        )?;
        writeln!(
            out,
            "{:>6} {:>9} {:>9} {:>8} {:>10}",
            "batch", "pages/s", "TFLOP/s", "of peak", "GPU MiB"
        )?;
        for pass in &self.batches {
            let Some(_) = pass.seconds else {
                writeln!(out, "{:>6} out of memory", pass.pages)?;
                continue;
            };
            let memory = mebibytes(pass.gpu_memory_bytes);
            writeln!(
                out,
                "{:>6} {:>9.3} {:>9.3} {:>7.0}% {memory:>10}",
                pass.pages,
                pass.pages_per_second,
                pass.tflops,
                pass.fraction_of_peak * 100.0
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::DeviceChoice;
    use super::*;

    #[test]
    fn a_tiny_checkpoint_is_measured() {
        let args = BenchArgs {
            model: ModelArgs {
                directory: concat!(
                    env!("CARGO_MANIFEST_DIR"),
                    "/tests/fixtures/tiny-colqwen2.5"
                )
                .into(),
                adapter: None,
                device: DeviceChoice::Cpu,
                max_visual_tokens: None,
            },
            precision: None,
            batch: vec![1, 2],
            page: (124, 175),
            seconds: 0,
            json: true,
        };
        let mut output = Vec::new();
        run(&args, &mut output).unwrap();
        let report: serde_json::Value = serde_json::from_slice(&output).unwrap();
        let passes = report["batches"].as_array().unwrap();
        assert_eq!(passes.len(), 2);
        for pass in passes {
            assert!(pass["pages_per_second"].as_f64().unwrap() > 0.0, "{pass}");
        }
        assert!(report["peak_tflops"].as_f64().unwrap() > 0.0);
    }

    #[test]
    fn sizes_are_parsed() {
        assert_eq!(size("1240x1754"), Ok((1240, 1754)));
        assert!(size("1240").is_err());
        assert!(size("0x7").is_err());
    }
}
