//! `layra-worker bench render`: pages of local documents through the renderers, and nothing else.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use futures::{StreamExt, TryStreamExt};
use layra_rendering::{
    Document, ImageFormat, PageRequest, RenderOptions, RenderedPage, Renderer, Resolution, SOFFICE,
    encode_png,
};
use serde::Serialize;

use super::cpu_of_thread;

/// Measure how fast this machine renders pages to PNG
#[derive(Debug, Args)]
pub struct RenderArgs {
    /// The documents
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    /// The PDFium library
    #[arg(
        long,
        env = "LAYRA_PDFIUM",
        default_value = "/usr/lib/layra/libpdfium.so"
    )]
    pdfium: PathBuf,

    /// LibreOffice, for office documents
    #[arg(long, env = "LAYRA_SOFFICE", default_value = SOFFICE)]
    soffice: PathBuf,

    /// Dots per inch
    #[arg(long, default_value_t = 200)]
    dpi: u32,

    /// Documents that are rendered at the same time, each by a process of its own [default: cores]
    #[arg(long)]
    processes: Option<usize>,

    /// Keep every page as `DOCUMENT-NUMBER.png`, and its text as `DOCUMENT-NUMBER.txt`
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,

    /// One JSON object instead of a line
    #[arg(long)]
    json: bool,
}

/// The kernel counts time of processes in hundredths of a second.
const MILLISECONDS_PER_TICK: u64 = 10;

#[derive(Debug, Default, Serialize)]
struct Report {
    pages: u32,
    processes: usize,
    seconds: f64,
    /// CPU time of the renderers, start and end of the processes included.
    cpu_seconds: f64,
    /// CPU time of packing the same pixels into PNG once more, in this process.
    png_cpu_seconds: f64,
    png_bytes: u64,
}

/// What one document took.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    pages: u32,
    cpu: Duration,
    png_bytes: u64,
}

/// Runs the command.
pub async fn run(args: &RenderArgs, output: &mut impl Write) -> anyhow::Result<()> {
    let processes = args
        .processes
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    let renderer = Renderer::new(RenderOptions {
        pdfium: args.pdfium.clone(),
        program: std::env::current_exe()?,
        page_timeout: Duration::from_mins(1),
        memory_limit_bytes: 1 << 30,
        max_pages: 100_000,
        processes,
        soffice: args.soffice.clone(),
        scratch: std::env::temp_dir(),
        office_timeout: Duration::from_mins(1),
    });
    if let Some(directory) = &args.output {
        std::fs::create_dir_all(directory)?;
    }
    let start = Instant::now();
    let costs: Vec<Cost> = futures::stream::iter(&args.files)
        .map(|file| document(&renderer, file, args))
        .buffer_unordered(processes)
        .try_collect()
        .await?;
    let mut report = Report {
        processes,
        seconds: start.elapsed().as_secs_f64(),
        ..Report::default()
    };
    for cost in costs {
        report.pages += cost.pages;
        report.cpu_seconds += cost.cpu.as_secs_f64();
        report.png_bytes += cost.png_bytes;
    }
    for file in &args.files {
        report.png_cpu_seconds += png_alone(&renderer, file, args.dpi).await?.as_secs_f64();
    }
    if args.json {
        serde_json::to_writer(&mut *output, &report)?;
        writeln!(output)?;
    } else {
        let pages = f64::from(report.pages);
        writeln!(
            output,
            "{} pages, {} processes: {:.1} pages/s, {:.1} ms of CPU a page, {:.1} of them PNG",
            report.pages,
            processes,
            pages / report.seconds,
            report.cpu_seconds / pages * 1e3,
            report.png_cpu_seconds / pages * 1e3
        )?;
    }
    Ok(())
}

async fn document(renderer: &Renderer, file: &Path, args: &RenderArgs) -> anyhow::Result<Cost> {
    let mut document = open(renderer, file).await?;
    let mut cost = Cost::default();
    for number in 0..document.pages() {
        let page = document.render(request(number, args.dpi, false)).await?;
        cost.pages += 1;
        cost.png_bytes += page.encoded.len() as u64;
        if let Some(directory) = &args.output {
            keep(directory, file, &page)?;
        }
    }
    cost.cpu = document.process_id().and_then(cpu_of).unwrap_or_default();
    Ok(cost)
}

/// CPU time of packing a document's pages alone.
async fn png_alone(renderer: &Renderer, file: &Path, dpi: u32) -> anyhow::Result<Duration> {
    let mut document = open(renderer, file).await?;
    let mut cpu = Duration::ZERO;
    for number in 0..document.pages() {
        let page = document.render(request(number, dpi, true)).await?;
        let pixels = page.pixels.context("the pixels that were asked for")?;
        let (width, height) = (page.width, page.height);
        let before = cpu_of_thread();
        encode_png(width, height, pixels.into())?;
        cpu += cpu_of_thread().saturating_sub(before);
    }
    Ok(cpu)
}

async fn open(renderer: &Renderer, file: &Path) -> anyhow::Result<Document> {
    let opened = renderer.open(file).await;
    opened.with_context(|| file.display().to_string())
}

fn request(page: u32, dpi: u32, pixels: bool) -> PageRequest {
    PageRequest {
        page,
        resolution: Resolution::Dpi(dpi),
        format: ImageFormat::Png,
        quality: 1,
        pixels,
    }
}

fn keep(directory: &Path, file: &Path, page: &RenderedPage) -> anyhow::Result<()> {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let name = directory.join(format!("{stem}-{:04}", page.page + 1));
    std::fs::write(name.with_extension("png"), &page.encoded)?;
    std::fs::write(name.with_extension("txt"), &page.text)?;
    Ok(())
}

/// CPU time of a process so far.
fn cpu_of(pid: u32) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(11);
    let ticks: u64 = [fields.next()?, fields.next()?]
        .iter()
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Some(Duration::from_millis(ticks * MILLISECONDS_PER_TICK))
}
