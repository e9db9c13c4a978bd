//! The `inspect` command: what a worker would make of files. It uses the same renderer as a worker,
//! in the same sandbox and within the same limits, and no server.

mod model;
mod report;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use layra_crds::{EmbeddingSpec, RenderSpec, WorkerConfig};
use layra_embedding::DeviceChoice;
use layra_rendering::{
    Document, ImageFormat, OFFICE_PREFIX, PageRequest, RenderError, RenderedPage, Renderer,
};

use crate::assembly;
use crate::pipeline::{render_failure, resolution, skips_bad_pages};
use crate::runtime::failure::Reason;
use model::Model;
use report::{FileReport, PageReport, Rejection};

// The help text of the command is the comment on its arguments.
/// Show what the worker would make of files, without servers and without storing anything.
///
/// Files are opened as a worker opens them: in the same sandbox, within the same limits. With the
/// configuration of a pipeline, its resolutions, limits and model settings apply, otherwise the
/// defaults. The command fails if a file could not be inspected; a file that a worker would reject
/// is a result.
#[derive(Clone, Debug, Args)]
pub(crate) struct InspectArgs {
    /// Documents of any kind. Their format is told from their content.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Write the image of each page to this directory, as NAME-NUMBER.png.
    #[arg(long, value_name = "DIR")]
    pages: Option<PathBuf>,
    /// Embed each page with the checkpoint in this directory; shows its vectors and the time.
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Device for a model that reads page images: auto, cpu or cuda:N.
    #[arg(long, env = "LAYRA_DEVICE", default_value = "auto")]
    device: DeviceChoice,
    /// The configuration file `worker.yaml` of a pipeline. Secrets are not needed.
    #[arg(long, env = "LAYRA_CONFIG")]
    config: Option<PathBuf>,
    /// Directory in which office documents are converted. Default: the system's temporary one.
    #[arg(long, env = "LAYRA_CACHE_DIR")]
    cache_dir: Option<PathBuf>,
    /// The PDFium library.
    #[arg(
        long,
        env = "LAYRA_PDFIUM",
        default_value = "/usr/lib/layra/libpdfium.so"
    )]
    pdfium: PathBuf,
    /// The LibreOffice program. Without it, office documents are not supported.
    #[arg(
        long,
        env = "LAYRA_SOFFICE",
        default_value = layra_rendering::SOFFICE
    )]
    soffice: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    /// A table for people.
    Table,
    /// One JSON object a line for each file.
    Json,
}

/// Inspects files and writes a report of each as soon as it is known.
pub(crate) async fn run(args: InspectArgs) -> anyhow::Result<ExitCode> {
    let (render, embedding) = settings(args.config.as_deref())?;
    let parent = args.cache_dir.unwrap_or_else(std::env::temp_dir);
    let scratch = tempfile::Builder::new()
        // What is left by a command that was killed, the next worker removes.
        .prefix(OFFICE_PREFIX)
        .tempdir_in(&parent)
        .with_context(|| format!("cannot use the directory {}", parent.display()))?;
    if let Some(directory) = &args.pages {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
    }
    let model = match args.model {
        Some(directory) => Some(Model::load(directory, args.device, embedding.as_ref()).await?),
        None => None,
    };
    let renderer = assembly::renderer(
        &render,
        args.pdfium,
        args.soffice,
        scratch.path().to_owned(),
    )?;
    let inspector = Inspector {
        renderer,
        render,
        pages: args.pages,
        model,
    };
    let mut code = ExitCode::SUCCESS;
    for file in &args.files {
        let mut report = FileReport::new(file);
        if let Err(rejection) = inspector.inspect(file, &mut report).await? {
            if rejection.is_failure {
                code = ExitCode::FAILURE;
            }
            report.reject(rejection);
        }
        let mut out = std::io::stdout().lock();
        match args.output {
            Output::Table => report.write_table(&mut out)?,
            Output::Json => {
                serde_json::to_writer(&mut out, &report)?;
                out.write_all(b"\n")?;
            }
        }
        out.flush()?;
    }
    Ok(code)
}

fn settings(config: Option<&Path>) -> anyhow::Result<(RenderSpec, Option<EmbeddingSpec>)> {
    let Some(path) = config else {
        return Ok((RenderSpec::default(), None));
    };
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the configuration {}", path.display()))?;
    let config = WorkerConfig::from_yaml(&text)
        .with_context(|| format!("the configuration {} is not valid", path.display()))?;
    Ok((config.documents.render, Some(config.embedding)))
}

struct Inspector {
    renderer: Renderer,
    render: RenderSpec,
    /// Directory for page images.
    pages: Option<PathBuf>,
    model: Option<Model>,
}

impl Inspector {
    /// Fills the report. The inner error is why a worker would reject the file; the outer one ends
    /// the command.
    async fn inspect(
        &self,
        file: &Path,
        report: &mut FileReport,
    ) -> anyhow::Result<Result<(), Rejection>> {
        if let Err(error) = std::fs::File::open(file)
            .and_then(|mut file| std::io::Read::read(&mut file, &mut [0]).map(drop))
        {
            return Ok(Err(Rejection::unreadable(&error)));
        }
        let mut document = match self.open(file, report).await? {
            Ok(document) => document,
            Err(rejection) => return Ok(Err(rejection)),
        };
        let pages = document.pages();
        let skips = skips_bad_pages(&self.render, pages);
        let mut bad = Vec::new();
        for page in 0..pages {
            match document.render(self.request(page, pages)).await {
                Ok(rendered) => {
                    let page = self.describe(file, rendered).await?;
                    if let Some(failure) = &page.failure {
                        bad.push(failure.clone());
                    }
                    report.pages.push(page);
                }
                Err(error) => {
                    let rejection = rejection(&error)?;
                    if !skips || rejection.is_failure {
                        return Ok(Err(rejection));
                    }
                    report.pages.push(PageReport::skipped(page, &rejection));
                    bad.push(rejection);
                }
            }
            if let Some(first) = bad.first()
                && (!skips || 2 * bad.len() > pages as usize)
            {
                return Ok(Err(too_many(first, skips)));
            }
            if !document.is_open() {
                document = match self.open(file, report).await? {
                    Ok(document) => document,
                    Err(rejection) => return Ok(Err(rejection)),
                };
            }
        }
        Ok(Ok(()))
    }

    async fn open(
        &self,
        file: &Path,
        report: &mut FileReport,
    ) -> anyhow::Result<Result<Document, Rejection>> {
        let mut format = String::new();
        let opened = self.renderer.open_reporting(file, &mut format).await;
        report.format = (!format.is_empty()).then_some(format);
        match opened {
            Ok(document) => {
                let warnings = document.warnings().iter();
                report.warnings = warnings.map(ToString::to_string).collect();
                Ok(Ok(document))
            }
            Err(error) => Ok(Err(rejection(&error)?)),
        }
    }

    fn request(&self, page: u32, pages: u32) -> PageRequest {
        let model_pixels = self.model.as_ref().and_then(Model::page_pixels);
        PageRequest {
            page,
            resolution: resolution(&self.render, pages, model_pixels),
            // Whatever the pipeline stores: the size is the same.
            format: ImageFormat::Png,
            quality: self.render.quality,
            pixels: model_pixels.is_some(),
        }
    }

    async fn describe(&self, file: &Path, page: RenderedPage) -> anyhow::Result<PageReport> {
        if let Some(directory) = &self.pages {
            let name = file.file_name().unwrap_or_default();
            let mut image = name.to_owned();
            image.push(format!("-{}.png", page.page + 1));
            let image = directory.join(image);
            std::fs::write(&image, &page.encoded)
                .with_context(|| format!("cannot write {}", image.display()))?;
        }
        let mut report = PageReport::of(&page);
        if let Some(model) = &self.model {
            match model.embed(page).await? {
                Ok(cost) => report.embedded = Some(cost),
                Err(error) => {
                    report.skip(Rejection::of_document(Reason::EmbeddingFailed, error));
                }
            }
        }
        Ok(report)
    }
}

/// Why a worker rejects a document, or the end of the command if no document can be opened here.
fn rejection(error: &RenderError) -> anyhow::Result<Rejection> {
    let failure = render_failure(error);
    if let RenderError::Unavailable(_) | RenderError::SandboxUnavailable(_) = error {
        bail!("{}: {}", failure.reason, failure.message);
    }
    Ok(Rejection {
        reason: failure.reason,
        is_failure: !error.is_document_fault(),
        message: failure.message,
    })
}

/// The rejection of a document because of its bad pages.
fn too_many(first: &Rejection, skips: bool) -> Rejection {
    if !skips {
        return first.clone();
    }
    let message = format!(
        "more than half of the pages cannot be stored; the first: {}: {}",
        first.reason, first.message
    );
    Rejection::of_document(Reason::TooManyBadPages, message)
}
