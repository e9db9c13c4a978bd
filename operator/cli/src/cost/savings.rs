//! What other settings would save, each by itself. Pure.

use layra_crds::{ImageFormat, IngestionPipeline};

use super::formulas::{self, Format, GIB, SECONDS_PER_DAY};
use super::inputs::{Inputs, index};
use super::prices::StoragePrices;
use super::report::{Figure, Stored, current_format, image_ratio, milvus, number};

/// The factor of the example in the documentation of `embedding.poolFactor`.
const POOL_FACTOR: f64 = 3.0;
/// Bytes of a number of this format.
const FLOAT16: f64 = 2.0;
/// The guide keeps this many days where they are searched.
const DAYS_AT_HAND: f64 = 30.0;

pub(super) fn figures(
    inputs: &Inputs,
    pipeline: &IngestionPipeline,
    prices: &StoragePrices,
    pages: f64,
) -> Vec<Figure> {
    let now = Stored::of(inputs, pipeline, prices);
    let figure = |name: &str, other: Option<Stored>, from: &str| {
        let (gib, price) = now.less(&other?, pages)?;
        Some(Figure::derived(name, gib, "GiB less", from).priced(price))
    };
    [
        figure("WebP", webp(inputs, pipeline, now), webp_words(pipeline)),
        figure(
            "embedding.poolFactor: 3",
            pooled(inputs, pipeline, now),
            pooling_words(pipeline),
        ),
        figure(
            "automatic resolution (dpi: [])",
            automatic(inputs, pipeline, now),
            "page images of A4; the model sees the same",
        ),
        figure(
            "vectors in float16",
            float16(inputs, pipeline, now),
            float16_words(pipeline),
        ),
        archive(inputs, pipeline, prices, pages),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn webp(inputs: &Inputs, pipeline: &IngestionPipeline, now: Stored) -> Option<Stored> {
    let bytes = inputs.image_bytes.as_ref()?.value;
    let ratio = image_ratio(
        (inputs.dpi?, current_format(pipeline)),
        (inputs.dpi?, Format::WebP),
    );
    Some(now.with_images(Some(bytes * ratio)))
}

fn webp_words(pipeline: &IngestionPipeline) -> &'static str {
    match pipeline.spec.documents.render.image_format {
        ImageFormat::Png => {
            "quality 85; costs about five times the CPU of PNG; LAYRA reads only PNG"
        }
        ImageFormat::WebP => "in use already",
    }
}

fn pooled(inputs: &Inputs, pipeline: &IngestionPipeline, now: Stored) -> Option<Stored> {
    let embedding = &pipeline.spec.embedding;
    if !embedding.model.family.is_visual() {
        return None;
    }
    let (vectors, dimensions) = (
        inputs.vectors_per_page.as_ref()?.value,
        inputs.dimensions.as_ref()?.value,
    );
    let more = (POOL_FACTOR / f64::from(embedding.pool_factor.max(1))).max(1.0);
    let sizes = milvus(
        vectors / more,
        dimensions,
        number(pipeline),
        index(pipeline),
    );
    Some(now.with_milvus(Some(sizes)))
}

fn pooling_words(pipeline: &IngestionPipeline) -> &'static str {
    if f64::from(pipeline.spec.embedding.pool_factor) >= POOL_FACTOR {
        "in use already"
    } else {
        "a third of the vectors; costs recall: try it on your documents first"
    }
}

fn automatic(inputs: &Inputs, pipeline: &IngestionPipeline, now: Stored) -> Option<Stored> {
    let format = current_format(pipeline);
    let bytes = inputs.image_bytes.as_ref()?.value;
    let ratio = image_ratio((inputs.dpi?, format), (inputs.automatic_dpi?, format));
    Some(now.with_images(Some(bytes * ratio)))
}

fn float16(inputs: &Inputs, pipeline: &IngestionPipeline, now: Stored) -> Option<Stored> {
    let (vectors, dimensions) = (
        inputs.vectors_per_page.as_ref()?.value,
        inputs.dimensions.as_ref()?.value,
    );
    let bytes = number(pipeline).min(FLOAT16);
    let sizes = milvus(vectors, dimensions, bytes, index(pipeline));
    Some(now.with_milvus(Some(sizes)))
}

fn float16_words(pipeline: &IngestionPipeline) -> &'static str {
    if number(pipeline) <= FLOAT16 {
        "in use already, or fewer bytes"
    } else {
        "2 bytes a number; needs Milvus 2.4 and readers that know it, which LAYRA's do not"
    }
}

/// The vectors of pages older than thirty days leave Milvus; their rows go to an archive. Page
/// images and MongoDB stay.
fn archive(
    inputs: &Inputs,
    pipeline: &IngestionPipeline,
    prices: &StoragePrices,
    pages: f64,
) -> Option<Figure> {
    let arriving = inputs.arriving_pages_per_second.as_ref()?.value;
    let at_hand = arriving * DAYS_AT_HAND * SECONDS_PER_DAY;
    let old = (pages - at_hand).max(0.0);
    let vectors = inputs.vectors_per_page.as_ref()?.value;
    let dimensions = inputs.dimensions.as_ref()?.value;
    let now = Stored::of(inputs, pipeline, prices);
    let (gib, price) = now.less(&now.with_milvus(Some((0.0, 0.0))), old)?;
    let archived = vectors * formulas::row(dimensions, number(pipeline)) * old / GIB;
    let price = price
        .zip(prices.archive)
        .map(|(less, archive)| less - archived * archive);
    let from = format!(
        "at present arrivals, the vectors of {:.0} % of the pages leave Milvus; less the price of the \
         archive",
        100.0 * old / pages.max(1.0)
    );
    let figure = Figure::derived("archive after 30 days", gib, "GiB less in Milvus", from);
    Some(figure.priced(price))
}
