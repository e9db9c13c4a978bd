//! `layra-worker bench resolution`: what a resolution and an image format cost, and what a resolution
//! does to the vectors of a model that sees pages.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use layra_embedding::{
    CheckpointFiles, DeviceChoice, Embedder, ModelFamily, MultiVector, PageInput, Pixels, Settings,
};
use layra_rendering::{
    ImageFormat, PageRequest, RenderOptions, RenderedPage, Renderer, Resolution,
};

/// Measure resolutions and image formats on documents
///
/// Draws some pages of each document at 300, 200, 150 and 100 dots per inch and at the automatic
/// resolution, as PNG and WebP, and prints the renderer's CPU time and the size of the images.
/// With a model that sees pages: the cosine of each vector to the one at 300 dots per inch.
#[derive(Debug, Args)]
pub struct ResolutionArgs {
    /// The PDFium library
    #[arg(
        long,
        env = "LAYRA_PDFIUM",
        default_value = "/usr/lib/layra/libpdfium.so"
    )]
    pdfium: PathBuf,

    /// Directory of a checkpoint of a family that sees pages
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,

    /// The checkpoint's family
    #[arg(long, default_value = "colqwen2_5")]
    family: ModelFamily,

    /// Most visual tokens a page
    #[arg(long, default_value_t = 768)]
    max_visual_tokens: u32,

    /// Pages of each document, evenly spread
    #[arg(long, default_value_t = 4)]
    pages: u32,

    /// Quality of WebP
    #[arg(long, default_value_t = 85)]
    quality: u8,

    /// The documents
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// What was measured of one resolution and format.
struct Line {
    name: String,
    resolution: Resolution,
    format: ImageFormat,
    pages: u32,
    cpu: Duration,
    bytes: usize,
    pixels: u64,
    cosines: Vec<f32>,
    /// Pages that the model saw in another grid of tokens than at 300 dots per inch.
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

/// Measures and writes a table. The first line is what the others are compared with.
pub async fn run(args: &ResolutionArgs, report: &mut impl Write) -> Result<()> {
    let model = args.model.as_deref().map(|model| load(args, model));
    let model: Option<Arc<dyn Embedder>> = model.transpose()?.map(Arc::from);
    let pixels = match &model {
        Some(model) => model.page_pixels().context("the model sees no pages")?,
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
        // Document by document, so that whatever else the machine does meets all lines alike.
        let mut reference = Vec::new();
        for line in &mut lines {
            let pages = draw(args, &renderer, file, line).await?;
            let Some(model) = model.clone().filter(|_| line.format == ImageFormat::Png) else {
                continue;
            };
            let vectors =
                tokio::task::spawn_blocking(move || see(model.as_ref(), &pages)).await??;
            if reference.is_empty() {
                reference = vectors;
            } else {
                line.compare(&reference, &vectors);
            }
        }
    }
    write(&lines, report)
}

fn load(args: &ResolutionArgs, directory: &Path) -> Result<Box<dyn Embedder>> {
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

fn options(args: &ResolutionArgs) -> Result<RenderOptions> {
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
    })
}

/// Draws the pages of a document, and counts.
async fn draw(
    args: &ResolutionArgs,
    renderer: &Renderer,
    file: &Path,
    line: &mut Line,
) -> Result<Vec<RenderedPage>> {
    let opened = renderer.open(file).await;
    let mut document = opened.with_context(|| format!("opening {}", file.display()))?;
    let process = document.process_id().context("the renderer is alive")?;
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

/// Time that a process of one thread was on a CPU.
fn cpu_time(process: u32) -> Result<Duration> {
    let path = format!("/proc/{process}/schedstat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let nanoseconds = text.split(' ').next().context("schedstat has numbers")?;
    Ok(Duration::from_nanos(nanoseconds.parse()?))
}

fn see(model: &dyn Embedder, pages: &[RenderedPage]) -> Result<Vec<MultiVector>> {
    let mut vectors = Vec::new();
    for page in pages {
        let rgb = page.pixels.as_deref().context("pixels were asked for")?;
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

fn write(lines: &[Line], report: &mut impl Write) -> Result<()> {
    let first = lines.first().context("there are lines")?;
    ensure!(first.pages > 0, "there are no pages");
    writeln!(
        report,
        "{:<6}{:<6}{:>6}{:>10}{:>8}{:>10}{:>10}{:>10}{:>10}{:>12}",
        "dpi", "image", "pages", "cpu ms", "ratio", "KiB", "Mpixel", "cosine", "p1", "other grids"
    )?;
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
        writeln!(
            report,
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
        )?;
    }
    Ok(())
}
