//! The answer: sections of figures, each with its source, and what is missing. Pure.

use layra_crds::IngestionPipeline;
use serde::Serialize;

use super::formulas::{self, Format, GIB, Index, SECONDS_PER_MONTH, SECONDS_PER_YEAR};
use super::inputs::{Inputs, Known, Missing, Source, format, index};
use super::prices::{Prices, StoragePrices};
use super::savings;

/// What `cost` prints.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) namespace: Option<String>,
    pub(super) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) currency: Option<String>,
    pub(super) sections: Vec<Section>,
    pub(super) missing: Vec<Missing>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Section {
    pub(super) title: &'static str,
    pub(super) figures: Vec<Figure>,
}

/// A number, and its price where it has one.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Figure {
    pub(super) name: String,
    pub(super) value: f64,
    pub(super) unit: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) price_per_month: Option<f64>,
    pub(super) source: Source,
    pub(super) from: String,
}

impl Figure {
    pub(super) fn derived(
        name: impl Into<String>,
        value: f64,
        unit: impl Into<String>,
        from: impl Into<String>,
    ) -> Self {
        Self {
            name: name.into(),
            value,
            unit: unit.into(),
            price_per_month: None,
            source: Source::Derived,
            from: from.into(),
        }
    }

    pub(super) fn priced(self, price_per_month: Option<f64>) -> Self {
        Self {
            price_per_month,
            ..self
        }
    }

    fn known(name: &str, known: &Known, value: f64, unit: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            value,
            unit: unit.into(),
            price_per_month: None,
            source: known.source,
            from: known.from.clone(),
        }
    }
}

/// Computes everything that the inputs allow.
pub(super) fn report(pipeline: &IngestionPipeline, prices: Option<&Prices>) -> Report {
    let mut inputs = Inputs::of(pipeline, prices);
    let storage_prices = prices.map(|prices| prices.storage).unwrap_or_default();
    let stored = Stored::of(&inputs, pipeline, &storage_prices);
    let mut sections = vec![
        Section {
            title: "inputs",
            figures: input_figures(&inputs, currency(prices)),
        },
        Section {
            title: "computing",
            figures: computing(&inputs, pipeline, currency(prices)),
        },
    ];
    for (title, pages) in [
        ("storage now", now(&inputs)),
        ("storage in a year", in_a_year(&inputs)),
    ] {
        let figures = pages.map(|pages| stored.figures(pages));
        let figures = figures.unwrap_or_default();
        sections.push(Section { title, figures });
    }
    let (title, pages) = match in_a_year(&inputs) {
        Some(pages) => ("savings in a year", Some(pages)),
        None => ("savings now", now(&inputs)),
    };
    let figures = pages.map(|pages| savings::figures(&inputs, pipeline, &storage_prices, pages));
    let figures = figures.unwrap_or_default();
    sections.push(Section { title, figures });
    sections.push(Section {
        title: "hardware of the price file, at full use",
        figures: prices.map(hardware).unwrap_or_default(),
    });
    sections.retain(|section| !section.figures.is_empty());
    inputs.missing.extend(missing_prices(&storage_prices));
    Report {
        namespace: pipeline.metadata.namespace.clone(),
        name: pipeline.metadata.name.clone().unwrap_or_default(),
        currency: prices.map(|prices| prices.currency.clone()),
        sections,
        missing: inputs.missing,
    }
}

/// The pages that are stored in a year, at present arrivals and with nothing deleted.
fn in_a_year(inputs: &Inputs) -> Option<f64> {
    let arriving = inputs.arriving_pages_per_second.as_ref()?;
    Some(now(inputs)? + arriving.value * SECONDS_PER_YEAR)
}

fn now(inputs: &Inputs) -> Option<f64> {
    Some(inputs.stored_pages.as_ref()?.value)
}

fn currency(prices: Option<&Prices>) -> &str {
    prices.map_or("", |prices| prices.currency.as_str())
}

fn input_figures(inputs: &Inputs, currency: &str) -> Vec<Figure> {
    let hour = format!("{currency} an hour");
    let rows = [
        (
            "pages of one worker",
            &inputs.pages_per_second,
            1.0,
            "a second",
        ),
        ("pages of a file", &inputs.pages_per_file, 1.0, "pages"),
        (
            "arriving pages",
            &inputs.arriving_pages_per_second,
            1.0,
            "a second",
        ),
        ("stored pages", &inputs.stored_pages, 1.0, "pages"),
        ("dimensions of a vector", &inputs.dimensions, 1.0, ""),
        ("vectors of a page", &inputs.vectors_per_page, 1.0, ""),
        ("page image", &inputs.image_bytes, 1024.0, "KiB"),
        ("hardware of one worker", &inputs.hourly, 1.0, hour.as_str()),
    ];
    let known = rows.into_iter().filter_map(|(name, known, divisor, unit)| {
        let known = known.as_ref()?;
        Some(Figure::known(name, known, known.value / divisor, unit))
    });
    known.collect()
}

fn computing(inputs: &Inputs, pipeline: &IngestionPipeline, currency: &str) -> Vec<Figure> {
    let mut figures = Vec::new();
    let Some(speed) = inputs.pages_per_second.as_ref().map(|speed| speed.value) else {
        return figures;
    };
    let price = inputs.hourly.as_ref().map(|hourly| hourly.value);
    let file = inputs.pages_per_file.as_ref().map(|pages| pages.value);
    if let Some(price) = price {
        let of = |pages| formulas::worker_hours(pages, speed) * price;
        figures.push(Figure::derived(
            "1,000 pages",
            of(1000.0),
            currency,
            "pages / speed x price of an hour, at full use",
        ));
        figures.extend(file.map(|pages| {
            Figure::derived("a file", of(pages), currency, "as 1,000 pages, at full use")
        }));
    }
    let Some(arriving) = inputs.arriving_pages_per_second.as_ref() else {
        return figures;
    };
    let hours = formulas::worker_hours(arriving.value * SECONDS_PER_MONTH, speed);
    let (name, devices) = match &pipeline.spec.worker.gpu {
        Some(gpu) => ("GPU hours at present arrivals", f64::from(gpu.count)),
        None => ("worker hours at present arrivals", 1.0),
    };
    let monthly = Figure::derived(
        name,
        hours * devices,
        "hours a month",
        "arrivals / speed, without start-up and idle time",
    );
    figures.push(monthly.priced(price.map(|price| hours * price)));
    if let (Some(price), Some(pages)) = (price, file)
        && arriving.value > 0.0
    {
        let machines = formulas::machines(arriving.value, speed);
        let files = arriving.value * 3600.0 / pages;
        figures.push(Figure::derived(
            "a file, with machines around the clock",
            machines * price / files,
            currency,
            format!("{machines} x price of an hour / files of an hour"),
        ));
    }
    figures
}

/// Pages as the pipeline's settings store them; `None` where an input is missing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored {
    prices: StoragePrices,
    /// Bytes of a page in Milvus' memory, on Milvus' disk, in S3 and in MongoDB.
    milvus: Option<(f64, f64)>,
    s3: Option<f64>,
    mongodb: Option<f64>,
}

impl Stored {
    pub(super) fn of(
        inputs: &Inputs,
        pipeline: &IngestionPipeline,
        prices: &StoragePrices,
    ) -> Self {
        let value = |known: &Option<Known>| known.as_ref().map(|known| known.value);
        let vectors = value(&inputs.vectors_per_page);
        Self {
            prices: *prices,
            milvus: vectors
                .zip(value(&inputs.dimensions))
                .map(|(vectors, dimensions)| {
                    milvus(vectors, dimensions, number(pipeline), index(pipeline))
                }),
            s3: value(&inputs.image_bytes),
            mongodb: value(&inputs.pages_per_file).map(formulas::mongodb),
        }
    }

    /// With other sizes in Milvus.
    pub(super) fn with_milvus(self, milvus: Option<(f64, f64)>) -> Self {
        Self { milvus, ..self }
    }

    /// With page images of another size.
    pub(super) fn with_images(self, s3: Option<f64>) -> Self {
        Self { s3, ..self }
    }

    /// Each store: its name, bytes of a page, and price of a GiB.
    fn stores(&self) -> [(&'static str, Option<f64>, Option<f64>, &'static str); 4] {
        let Self { prices, .. } = self;
        [
            (
                "Milvus, memory",
                self.milvus.map(|(memory, _)| memory),
                prices.milvus_memory,
                "vectors, columns and the graph of the index",
            ),
            (
                "Milvus, disk",
                self.milvus.map(|(_, disk)| disk),
                prices.milvus_disk,
                "binlogs and index files, without compression",
            ),
            ("S3", self.s3, prices.s3, "page images, without originals"),
            (
                "MongoDB",
                self.mongodb,
                prices.mongodb,
                "512 bytes a page and 1 KiB a file, without compression and the ledger",
            ),
        ]
    }

    fn figures(&self, pages: f64) -> Vec<Figure> {
        let stores = self.stores().into_iter();
        let known = stores.filter_map(|(name, bytes, price, from)| {
            let gib = bytes? * pages / GIB;
            let figure = Figure::derived(name, gib, "GiB", from);
            Some(figure.priced(price.map(|price| gib * price)))
        });
        known.collect()
    }

    /// How much less `pages` need with `other`: GiB of all stores whose sizes are known, and their
    /// price unless one is missing. `None`: nothing is known.
    pub(super) fn less(&self, other: &Self, pages: f64) -> Option<(f64, Option<f64>)> {
        let (mut gib, mut price) = (None, Some(0.0));
        for ((_, bytes, price_of_gib, _), (_, less, ..)) in
            self.stores().into_iter().zip(other.stores())
        {
            let (Some(bytes), Some(less)) = (bytes, less) else {
                continue;
            };
            let saved = (bytes - less) * pages / GIB;
            gib = Some(gib.unwrap_or(0.0) + saved);
            if saved != 0.0 {
                price = price
                    .zip(price_of_gib)
                    .map(|(price, of_gib)| price + saved * of_gib);
            }
        }
        gib.map(|gib| (gib, price))
    }
}

/// Bytes of a page in Milvus' memory and on its disk.
pub(super) fn milvus(
    vectors: f64,
    dimensions: f64,
    bytes_per_number: f64,
    index: Index,
) -> (f64, f64) {
    (
        vectors * formulas::milvus_memory(dimensions, bytes_per_number, index),
        vectors * formulas::milvus_disk(dimensions, bytes_per_number, index),
    )
}

/// Bytes of a number of a vector.
pub(super) fn number(pipeline: &IngestionPipeline) -> f64 {
    pipeline.spec.stores.milvus.vector_type.bytes() as f64
}

/// The ratio of two page images.
pub(super) fn image_ratio(from: (f64, Format), to: (f64, Format)) -> f64 {
    formulas::image(to.0, to.1) / formulas::image(from.0, from.1)
}

/// The current format of the page images.
pub(super) fn current_format(pipeline: &IngestionPipeline) -> Format {
    format(pipeline.spec.documents.render.image_format)
}

fn hardware(prices: &Prices) -> Vec<Figure> {
    let entries = prices.hardware.iter();
    let known = entries.filter_map(|(name, hardware)| {
        let speed = hardware.pages_per_second?;
        let hourly = formulas::hourly(hardware.monthly);
        let price = formulas::worker_hours(1000.0, speed) * hourly;
        let from = format!("{speed} pages a second, {} a month", hardware.monthly);
        let name = format!("1,000 pages on {name}");
        Some(Figure::derived(name, price, &prices.currency, from))
    });
    known.collect()
}

fn missing_prices(prices: &StoragePrices) -> Vec<Missing> {
    let all = [
        (
            "price of Milvus' memory",
            "milvusMemory",
            prices.milvus_memory,
        ),
        ("price of Milvus' disk", "milvusDisk", prices.milvus_disk),
        ("price of S3", "s3", prices.s3),
        ("price of MongoDB's disk", "mongodb", prices.mongodb),
        ("price of an archive", "archive", prices.archive),
    ];
    let missing = all.into_iter().filter(|(.., price)| price.is_none());
    let missing = missing.map(|(input, field, _)| Missing {
        input,
        comes_from: format!("storage.{field} of the price file"),
    });
    missing.collect()
}
