//! What the calculation starts from: the object, its status and the price file. What none of them
//! has is noted as missing.

use layra_crds::{ImageFormat, IndexKind, IngestionPipeline, ModelFamily};
use serde::Serialize;

use super::formulas::{self, Format, Index, SECONDS_PER_DAY};
use super::prices::Prices;

/// Where a number comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) enum Source {
    /// By the operator or a worker of this pipeline.
    #[serde(rename = "measured")]
    Measured,
    /// Computed from other numbers.
    #[serde(rename = "derived")]
    Derived,
    #[serde(rename = "from the price file")]
    PriceFile,
}

impl Source {
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Measured => "measured",
            Self::Derived => "derived",
            Self::PriceFile => "from the price file",
        }
    }
}

/// A known number.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Known {
    pub(super) value: f64,
    pub(super) source: Source,
    /// The field, or how it was derived.
    pub(super) from: String,
}

/// A number that neither the object nor the price file has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Missing {
    pub(super) input: &'static str,
    /// Where it would come from.
    pub(super) comes_from: String,
}

/// The numbers that are known.
#[derive(Clone, Debug, Default)]
pub(super) struct Inputs {
    pub(super) pages_per_second: Option<Known>,
    pub(super) pages_per_file: Option<Known>,
    pub(super) arriving_pages_per_second: Option<Known>,
    pub(super) stored_pages: Option<Known>,
    pub(super) dimensions: Option<Known>,
    pub(super) vectors_per_page: Option<Known>,
    pub(super) image_bytes: Option<Known>,
    /// Price of the hardware of one worker for an hour.
    pub(super) hourly: Option<Known>,
    /// The resolution of an average document.
    pub(super) dpi: Option<f64>,
    /// What `documents.render.dpi: []` would choose.
    pub(super) automatic_dpi: Option<f64>,
    pub(super) missing: Vec<Missing>,
}

impl Inputs {
    pub(super) fn of(pipeline: &IngestionPipeline, prices: Option<&Prices>) -> Self {
        let mut inputs = Self::default();
        inputs.workers(pipeline, prices);
        inputs.documents(pipeline, prices);
        inputs.vectors(pipeline, prices);
        inputs.images(pipeline, prices);
        inputs
    }

    /// The first number that is known. Otherwise the input is missing.
    fn first<const N: usize>(
        &mut self,
        input: &'static str,
        candidates: [Option<Known>; N],
        comes_from: impl Into<String>,
    ) -> Option<Known> {
        let found = candidates.into_iter().flatten().next();
        if found.is_none() {
            let comes_from = comes_from.into();
            self.missing.push(Missing { input, comes_from });
        }
        found
    }

    fn workers(&mut self, pipeline: &IngestionPipeline, prices: Option<&Prices>) {
        let hardware = prices.and_then(|prices| {
            let name = prices.workers.as_ref()?;
            Some((name, prices.hardware.get(name)?))
        });
        let learned = scaling(pipeline).and_then(|scaling| scaling.learned.as_ref());
        let speed = learned.and_then(|learned| {
            measured(
                learned.pages_per_second,
                "status.scaling.learned.pagesPerSecond",
            )
        });
        let listed = hardware.and_then(|(name, hardware)| {
            let speed = hardware.pages_per_second?;
            priced(speed, &format!("hardware.{name}.pagesPerSecond"))
        });
        self.pages_per_second = self.first(
            "pages a second of one worker",
            [speed, listed],
            "status.scaling.learned, once workers have run, or hardware.NAME.pagesPerSecond of the \
             price file",
        );
        let hourly = hardware.and_then(|(name, hardware)| {
            priced(
                formulas::hourly(hardware.monthly),
                &format!("hardware.{name}.monthly / 730 hours"),
            )
        });
        self.hourly = self.first(
            "price of a worker's hardware",
            [hourly],
            "workers and hardware.NAME.monthly of the price file",
        );
    }

    fn documents(&mut self, pipeline: &IngestionPipeline, prices: Option<&Prices>) {
        let workload = prices.map(|prices| prices.workload).unwrap_or_default();
        let scaling = scaling(pipeline);
        let learned = scaling.and_then(|scaling| scaling.learned.as_ref());
        let expected = workload
            .pages_per_file
            .and_then(|pages| priced(pages, "workload.pagesPerFile"));
        let pages = learned.and_then(|learned| {
            measured(
                learned.pages_per_document,
                "status.scaling.learned.pagesPerDocument",
            )
        });
        self.pages_per_file = self.first(
            "pages of a file",
            [expected, pages],
            "status.scaling.learned, once workers have run, or workload.pagesPerFile of the price \
             file",
        );
        let expected = workload.files_per_day.and_then(|files| {
            let pages = self.pages_per_file.as_ref()?;
            let arriving = files * pages.value / SECONDS_PER_DAY;
            priced(arriving, "workload.filesPerDay x pages of a file")
        });
        let inputs = scaling.and_then(|scaling| scaling.inputs.as_ref());
        let arriving = inputs.and_then(|inputs| inputs.arriving_pages_per_second);
        let arriving = arriving.and_then(|pages| {
            // Nothing arriving is a measurement, too.
            at_least(pages, 0.0, Source::Measured, {
                "status.scaling.inputs.arrivingPagesPerSecond"
            })
        });
        self.arriving_pages_per_second = self.first(
            "arriving pages a second",
            [expected, arriving],
            "status.scaling.inputs, while the operator runs, or workload.filesPerDay of the price \
             file",
        );
        let stored = workload
            .stored_pages
            .and_then(|pages| at_least(pages, 0.0, Source::PriceFile, "workload.storedPages"));
        self.stored_pages = self.first(
            "stored pages",
            [stored],
            "workload.storedPages of the price file; the object does not count them",
        );
    }

    fn vectors(&mut self, pipeline: &IngestionPipeline, prices: Option<&Prices>) {
        let workload = prices.map(|prices| prices.workload).unwrap_or_default();
        let embedding = &pipeline.spec.embedding;
        let family = embedding.model.family;
        let status = pipeline.status.as_ref();
        let model = status.and_then(|status| status.model.as_ref());
        let known =
            model.and_then(|model| measured(model.dimensions.into(), "status.model.dimensions"));
        let of_family = (family == ModelFamily::Minilm)
            .then(|| derived(384.0, "embedding.model.family: minilm"))
            .flatten();
        self.dimensions = self.first(
            "dimensions of a vector",
            [known, of_family],
            "status.model, once a worker has fetched the model",
        );
        let expected = workload
            .vectors_per_page
            .and_then(|vectors| priced(vectors, "workload.vectorsPerPage"));
        let tokens = embedding
            .max_visual_tokens
            .filter(|_| family.is_visual())
            .map(f64::from);
        let most = tokens.and_then(|tokens| {
            let factor = embedding.pool_factor.max(1).into();
            derived(
                formulas::most_vectors(tokens, factor),
                "the most: embedding.maxVisualTokens and poolFactor",
            )
        });
        let comes_from = if family.is_visual() {
            "embedding.maxVisualTokens, or workload.vectorsPerPage of the price file"
        } else {
            "workload.vectorsPerPage of the price file: ingestion_vectors_total by \
             ingestion_pages_total of the workers"
        };
        self.vectors_per_page = self.first("vectors of a page", [expected, most], comes_from);
    }

    fn images(&mut self, pipeline: &IngestionPipeline, prices: Option<&Prices>) {
        let workload = prices.map(|prices| prices.workload).unwrap_or_default();
        let (render, embedding) = (&pipeline.spec.documents.render, &pipeline.spec.embedding);
        let side = match embedding.model.family {
            ModelFamily::ColQwen2 | ModelFamily::ColQwen2_5 => Some(28.0 * 28.0),
            ModelFamily::ColQwen3 => Some(32.0 * 32.0),
            _ => None,
        };
        self.automatic_dpi = match (side, embedding.max_visual_tokens) {
            (None, _) => Some(formulas::automatic_dpi(0.0)),
            (Some(pixels), Some(tokens)) => {
                Some(formulas::automatic_dpi(f64::from(tokens) * pixels))
            }
            (Some(_), None) => None,
        };
        self.dpi = if render.dpi.is_empty() {
            self.automatic_dpi
        } else {
            let pages = self.pages_per_file.as_ref();
            // A file's number of pages is far below the limits of u32.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let rule = pages.and_then(|pages| render.dpi_for(pages.value.round() as u32));
            rule.map(f64::from)
        };
        let expected = workload
            .image_kib_per_page
            .and_then(|kib| priced(kib * 1024.0, "workload.imageKibPerPage"));
        let format = format(render.image_format);
        let typical = self.dpi.and_then(|dpi| {
            let name = match format {
                Format::Png => "PNG",
                Format::WebP => "WebP",
            };
            let from = format!("{name} at {dpi} DPI: sizes in docs/measurements.md");
            derived(formulas::image(dpi, format), &from)
        });
        self.image_bytes = self.first(
            "bytes of a page image",
            [expected, typical],
            "pages of a file (for documents.render.dpi) or embedding.maxVisualTokens (for an \
             automatic resolution), or workload.imageKibPerPage of the price file",
        );
    }
}

/// The index of new collections.
pub(super) fn index(pipeline: &IngestionPipeline) -> Index {
    match pipeline.spec.stores.milvus.index.resolved().kind {
        IndexKind::Hnsw { m, .. } => Index::Hnsw(f64::from(m).max(2.0)),
        IndexKind::Flat => Index::Flat,
        IndexKind::IvfFlat { .. } => Index::IvfFlat,
    }
}

pub(super) fn format(format: ImageFormat) -> Format {
    match format {
        ImageFormat::Png => Format::Png,
        ImageFormat::WebP => Format::WebP,
    }
}

fn scaling(pipeline: &IngestionPipeline) -> Option<&layra_crds::ScalingStatus> {
    pipeline.status.as_ref()?.scaling.as_ref()
}

fn measured(value: f64, from: &str) -> Option<Known> {
    positive(value, Source::Measured, from)
}

fn derived(value: f64, from: &str) -> Option<Known> {
    positive(value, Source::Derived, from)
}

fn priced(value: f64, from: &str) -> Option<Known> {
    at_least(value, 0.0, Source::PriceFile, from)
}

/// A speed or size of 0 is one that is not known.
fn positive(value: f64, source: Source, from: &str) -> Option<Known> {
    at_least(value, f64::MIN_POSITIVE, source, from)
}

fn at_least(value: f64, lowest: f64, source: Source, from: &str) -> Option<Known> {
    (value.is_finite() && value >= lowest).then(|| Known {
        value,
        source,
        from: from.to_owned(),
    })
}
