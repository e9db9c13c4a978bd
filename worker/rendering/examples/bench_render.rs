//! Measures how fast this machine renders pages of local documents to PNG. `e2e/bench/render.py`
//! compares it with Python.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use futures::{StreamExt, TryStreamExt};
use layra_rendering::{
    Document, ImageFormat, PageRequest, RenderOptions, RenderedPage, Renderer, Resolution, SOFFICE,
    SandboxPolicy, encode_png,
};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// Measure how fast this machine renders pages to PNG
#[derive(Debug, Parser)]
struct Arguments {
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

    /// Number of documents to render at the same time, each in its own process [default: cores]
    #[arg(long)]
    processes: Option<usize>,

    /// Write every page to `DOCUMENT-NUMBER.png`, and its text to `DOCUMENT-NUMBER.txt`
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,

    /// Print one JSON object instead of a line
    #[arg(long)]
    json: bool,
}

/// The kernel counts the CPU time of processes in hundredths of a second.
const MILLISECONDS_PER_TICK: u64 = 10;

#[derive(Debug, Default, Serialize)]
struct Report {
    pages: u32,
    processes: usize,
    seconds: f64,
    /// CPU time of the renderers, including start and exit of the processes.
    cpu_seconds: f64,
    /// CPU time of encoding the same pixels as PNG again, in this process.
    png_cpu_seconds: f64,
    png_bytes: u64,
}

/// Cost of one document.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    pages: u32,
    cpu: Duration,
    png_bytes: u64,
}

fn main() -> anyhow::Result<ExitCode> {
    // The renderers are this program, too.
    match std::env::args().nth(1).as_deref() {
        Some("render-child") => Ok(layra_rendering::child::main()),
        Some("office-child") => Ok(layra_rendering::office_child::main()),
        _ => {
            let runtime = tokio::runtime::Runtime::new()?;
            runtime.block_on(run(&Arguments::parse()))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn run(args: &Arguments) -> anyhow::Result<()> {
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
        sandbox: SandboxPolicy::BestEffort,
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
        println!("{}", serde_json::to_string(&report)?);
    } else {
        let pages = f64::from(report.pages);
        println!(
            "{} pages, {} processes: {:.1} pages/s, {:.1} ms of CPU per page, of which PNG {:.1}",
            report.pages,
            processes,
            pages / report.seconds,
            report.cpu_seconds / pages * 1e3,
            report.png_cpu_seconds / pages * 1e3
        );
    }
    Ok(())
}

async fn document(renderer: &Renderer, file: &Path, args: &Arguments) -> anyhow::Result<Cost> {
    let mut document = open(renderer, file).await?;
    let mut cost = Cost::default();
    for number in 0..document.pages() {
        let page = document.render(request(number, args.dpi, false)).await?;
        cost.pages += 1;
        cost.png_bytes += page.encoded.len() as u64;
        if let Some(directory) = &args.output {
            write_page(directory, file, &page)?;
        }
    }
    cost.cpu = document.process_id().and_then(cpu_of).unwrap_or_default();
    Ok(cost)
}

/// CPU time of encoding a document's pages as PNG.
async fn png_alone(renderer: &Renderer, file: &Path, dpi: u32) -> anyhow::Result<Duration> {
    let mut document = open(renderer, file).await?;
    let mut cpu = Duration::ZERO;
    for number in 0..document.pages() {
        let page = document.render(request(number, dpi, true)).await?;
        let pixels = page.pixels.context("the pixels were requested")?;
        let (width, height) = (page.width, page.height);
        let before = thread_cpu();
        encode_png(width, height, pixels.into())?;
        cpu += thread_cpu().saturating_sub(before);
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

fn write_page(directory: &Path, file: &Path, page: &RenderedPage) -> anyhow::Result<()> {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let name = format!("{stem}-{:04}", page.page + 1);
    std::fs::write(directory.join(format!("{name}.png")), &page.encoded)?;
    std::fs::write(directory.join(format!("{name}.txt")), &page.text)?;
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

/// CPU time of this thread so far.
fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or_default();
    Duration::from_secs(seconds) + Duration::from_nanos(nanoseconds)
}
