//! Measures CPU time and size of page images by resolution and format, and the effect of the
//! resolution on the vectors of a model that embeds page images.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use layra_embedding::{
    CheckpointFiles, DeviceChoice, Embedder, ModelFamily, MultiVector, PageInput, Pixels, Settings,
};
use layra_rendering::{
    ImageFormat, PageRequest, RenderOptions, RenderedPage, Renderer, Resolution, SandboxPolicy,
};

/// Measure resolutions and image formats on documents
///
/// Renders some pages of each document at 300, 200, 150 and 100 dots per inch and at the automatic
/// resolution, as PNG and WebP, and prints the renderer's CPU time and the size of the images. With
/// a model that embeds page images: also the cosine of each vector to the one at 300 dots per inch.
#[derive(Debug, Parser)]
struct Arguments {
    /// The PDFium library
    #[arg(
        long,
        env = "LAYRA_PDFIUM",
        default_value = "/usr/lib/layra/libpdfium.so"
    )]
    pdfium: PathBuf,

    /// Directory of a checkpoint of a family that embeds page images
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,

    /// The checkpoint's family
    #[arg(long, default_value = "colqwen2_5")]
    family: ModelFamily,

    /// Maximum number of visual tokens of a page
    #[arg(long, default_value_t = 768)]
    max_visual_tokens: u32,

    /// Number of pages of each document, evenly spread
    #[arg(long, default_value_t = 4)]
    pages: u32,

    /// Quality of WebP
    #[arg(long, default_value_t = 85)]
    quality: u8,

    /// The documents
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// Results for one resolution and format.
struct Line {
    name: String,
    resolution: Resolution,
    format: ImageFormat,
    pages: u32,
    cpu: Duration,
    bytes: usize,
    pixels: u64,
    cosines: Vec<f32>,
    /// Pages for which the model used another grid of tokens than at 300 dots per inch.
    other_grids: u32,
}

impl Line {
    fn new(name: &str, resolution: Resolution, format: ImageFormat) -> Self {
        Self {
            name: name.to_owned(),
            resolution,
            format,
            pages: 0,
            cpu: Duration::ZERO,
            bytes: 0,
            pixels: 0,
            cosines: Vec::new(),
            other_grids: 0,
        }
    }
}

fn main() -> Result<ExitCode> {
    // The renderers are this program, too.
    if std::env::args().nth(1).as_deref() == Some("render-child") {
        return Ok(layra_rendering::child::main());
    }
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(run(&Arguments::parse()))?;
    Ok(ExitCode::SUCCESS)
}

/// Measures and prints a table. The other lines are compared with the first.
async fn run(args: &Arguments) -> Result<()> {
    let model = args.model.as_deref().map(|model| load(args, model));
    let model: Option<Arc<dyn Embedder>> = model.transpose()?.map(Arc::from);
    let pixels = match &model {
        Some(model) => model
            .page_pixels()
            .context("the model does not embed page images")?,
        None => args.max_visual_tokens * 28 * 28,
    };
    let mut lines = Vec::new();
    for (name, resolution) in [
        ("300", Resolution::Dpi(300)),
        ("200", Resolution::Dpi(200)),
        ("150", Resolution::Dpi(150)),
        ("100", Resolution::Dpi(100)),
        ("auto", Resolution::Auto { pixels }),
    ] {
        for format in [ImageFormat::Png, ImageFormat::WebP] {
            lines.push(Line::new(name, resolution, format));
        }
    }
    let renderer = Renderer::new(options(args)?);
    for file in &args.files {
        // Document by document, so that other load affects all lines alike.
        let mut reference = Vec::new();
        for line in &mut lines {
            let pages = draw(args, &renderer, file, line).await?;
            let Some(model) = model.clone().filter(|_| line.format == ImageFormat::Png) else {
                continue;
            };
            let vectors =
                tokio::task::spawn_blocking(move || embed(model.as_ref(), &pages)).await??;
            if reference.is_empty() {
                reference = vectors;
            } else {
                line.compare(&reference, &vectors);
            }
        }
    }
    print(&lines)
}

fn load(args: &Arguments, directory: &Path) -> Result<Box<dyn Embedder>> {
    let settings = Settings {
        family: args.family,
        device: DeviceChoice::Cpu,
        precision: None,
        max_visual_tokens: Some(args.max_visual_tokens),
        batch_pages: 1,
        pool_factor: 1,
    };
    let files = CheckpointFiles {
        directory: directory.to_owned(),
        adapter: None,
    };
    Ok(layra_embedding::load(&settings, &files)?)
}

fn options(args: &Arguments) -> Result<RenderOptions> {
    Ok(RenderOptions {
        pdfium: args.pdfium.clone(),
        program: std::env::current_exe()?,
        page_timeout: Duration::from_mins(1),
        memory_limit_bytes: 1 << 30,
        max_pages: 100_000,
        processes: 1,
        soffice: PathBuf::new(),
        scratch: std::env::temp_dir(),
        office_timeout: Duration::ZERO,
        sandbox: SandboxPolicy::BestEffort,
    })
}

/// Renders the pages of a document and adds them to the line.
async fn draw(
    args: &Arguments,
    renderer: &Renderer,
    file: &Path,
    line: &mut Line,
) -> Result<Vec<RenderedPage>> {
    let opened = renderer.open(file).await;
    let mut document = opened.with_context(|| format!("opening {}", file.display()))?;
    let process = document
        .process_id()
        .context("the renderer is not running")?;
    let count = args.pages.min(document.pages());
    let mut pages = Vec::new();
    let before = cpu_time(process)?;
    for number in 0..count {
        let request = PageRequest {
            page: document.pages() / count * number,
            resolution: line.resolution,
            format: line.format,
            quality: args.quality,
            pixels: true,
        };
        pages.push(document.render(request).await?);
    }
    line.cpu += cpu_time(process)?.saturating_sub(before);
    line.pages += count;
    for page in &pages {
        line.bytes += page.encoded.len();
        line.pixels += u64::from(page.width) * u64::from(page.height);
    }
    Ok(pages)
}

/// CPU time of a process with one thread.
fn cpu_time(process: u32) -> Result<Duration> {
    let path = format!("/proc/{process}/schedstat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let nanoseconds = text.split(' ').next().context("schedstat is empty")?;
    Ok(Duration::from_nanos(nanoseconds.parse()?))
}

fn embed(model: &dyn Embedder, pages: &[RenderedPage]) -> Result<Vec<MultiVector>> {
    let mut vectors = Vec::new();
    for page in pages {
        let rgb = page
            .pixels
            .as_deref()
            .context("the pixels were requested")?;
        let (width, height) = (page.width, page.height);
        let pixels = Some(Pixels { width, height, rgb });
        vectors.extend(model.embed_pages(&[PageInput { text: "", pixels }])?);
    }
    Ok(vectors)
}

impl Line {
    fn compare(&mut self, reference: &[MultiVector], vectors: &[MultiVector]) {
        for (reference, vectors) in reference.iter().zip(vectors) {
            if reference.rows().count() == vectors.rows().count() {
                let pairs = reference.rows().zip(vectors.rows());
                self.cosines.extend(pairs.map(|(a, b)| cosine(a, b)));
            } else {
                self.other_grids += 1;
            }
        }
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn print(lines: &[Line]) -> Result<()> {
    let first = lines.first().context("there are no lines")?;
    ensure!(first.pages > 0, "there are no pages");
    println!(
        "{:<6}{:<6}{:>6}{:>10}{:>8}{:>10}{:>10}{:>10}{:>10}{:>12}",
        "dpi", "image", "pages", "cpu ms", "ratio", "KiB", "Mpixel", "cosine", "p1", "other grids"
    );
    for line in lines {
        let pages = f64::from(line.pages);
        let cpu = line.cpu.as_secs_f64() / pages;
        let ratio = cpu / (first.cpu.as_secs_f64() / f64::from(first.pages));
        let mut cosines = line.cosines.clone();
        cosines.sort_by(f32::total_cmp);
        let mean = cosines.iter().sum::<f32>() / cosines.len() as f32;
        let shown = |value: f32| {
            if cosines.is_empty() {
                "-".to_owned()
            } else {
                format!("{value:.4}")
            }
        };
        println!(
            "{:<6}{:<6}{:>6}{:>10.1}{:>8.2}{:>10.1}{:>10.2}{:>10}{:>10}{:>12}",
            line.name,
            format!("{:?}", line.format),
            line.pages,
            1000.0 * cpu,
            ratio,
            line.bytes as f64 / pages / 1024.0,
            line.pixels as f64 / pages / 1e6,
            shown(mean),
            shown(
                cosines
                    .get(cosines.len() / 100)
                    .copied()
                    .unwrap_or_default()
            ),
            line.other_grids
        );
    }
    Ok(())
}
