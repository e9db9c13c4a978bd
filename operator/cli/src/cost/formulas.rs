//! The formulas, each with its source. Pure: no clock, no files, no objects.
//!
//! Sizes are in bytes and for one page or one vector; a month has 730 hours.

/// Hours of a month: 365 days / 12.
pub(super) const HOURS_PER_MONTH: f64 = 730.0;
pub(super) const SECONDS_PER_MONTH: f64 = HOURS_PER_MONTH * 3600.0;
pub(super) const SECONDS_PER_DAY: f64 = 86_400.0;
pub(super) const SECONDS_PER_YEAR: f64 = 365.0 * SECONDS_PER_DAY;
pub(super) const GIB: f64 = 1_073_741_824.0;

/// Columns of a row besides the vector, in LAYRA's schema: `pk` and `page_number`, 8 bytes each;
/// Milvus' own row id and timestamp, 8 bytes each; `image_id` and `file_id`, each `_` and a UUID of
/// 36 characters behind the user's name, which is not counted.
const OTHER_COLUMNS: f64 = 8.0 + 8.0 + 8.0 + 8.0 + 2.0 * 37.0;
/// Tokens of the prompt around a page, each of which is a vector, too: counted with the tokenizer of
/// `ColQwen2` and `ColQwen2.5`.
const PROMPT_TOKENS: f64 = 11.0;
/// An element of `files.images[]` and a document of `files`: the guide's chapter on storage.
const MONGODB_PAGE: f64 = 512.0;
const MONGODB_FILE: f64 = 1024.0;
/// A4 in square inches.
const A4: f64 = 8.27 * 11.69;
/// Lowest and highest resolution that the workers choose automatically.
const AUTOMATIC_DPI: (f64, f64) = (100.0, 300.0);

/// Resolution, and KiB of a page as PNG and as WebP of quality 85: means of 8 pages of the
/// test-bed's documents, docs/measurements.md, "Rendering: resolution and image format".
const IMAGES: [(f64, f64, f64); 4] = [
    (100.0, 219.0, 56.0),
    (150.0, 373.0, 101.0),
    (200.0, 537.0, 145.0),
    (300.0, 899.0, 233.0),
];

/// Format of page images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Png,
    WebP,
}

/// A vector index.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Index {
    /// With M.
    Hnsw(f64),
    Flat,
    IvfFlat,
}

impl Index {
    /// Bytes for each vector besides the vector.
    fn links(self) -> f64 {
        match self {
            Self::Hnsw(m) => hnsw_graph(m),
            Self::Flat => 0.0,
            // Its id in the list of its cluster.
            Self::IvfFlat => 8.0,
        }
    }
}

/// Worker hours that `pages` need.
pub(super) fn worker_hours(pages: f64, pages_per_second: f64) -> f64 {
    pages / pages_per_second / 3600.0
}

/// Price of an hour, from that of a month.
pub(super) fn hourly(monthly: f64) -> f64 {
    monthly / HOURS_PER_MONTH
}

/// Machines that keep up with arrivals and are never stopped; at least one.
pub(super) fn machines(arriving_pages_per_second: f64, pages_per_second: f64) -> f64 {
    (arriving_pages_per_second / pages_per_second)
        .ceil()
        .max(1.0)
}

/// Most vectors of a page of a visual model: a vector for each visual token and each token of the
/// prompt; pooling divides their number and rounds down
/// (`worker/embedding/src/colqwen/pooling.rs`).
pub(super) fn most_vectors(visual_tokens: f64, pool_factor: f64) -> f64 {
    ((visual_tokens + PROMPT_TOKENS) / pool_factor)
        .floor()
        .max(1.0)
}

/// A vector with the other columns of its row, without compression.
pub(super) fn row(dimensions: f64, bytes_per_number: f64) -> f64 {
    dimensions * bytes_per_number + OTHER_COLUMNS
}

/// The HNSW graph, for each vector. hnswlib (`hnswalg.h`), which Milvus uses: on the lowest level
/// room for 2 M links of 4 bytes and their number, and a label of 8 bytes; on each higher level M
/// links and their number. A vector is on 1 / (M - 1) higher levels on average, since each has 1 / M
/// of the vectors of the one below.
fn hnsw_graph(m: f64) -> f64 {
    (2.0 * m * 4.0 + 4.0 + 8.0) + (4.0 * m + 4.0) / (m - 1.0)
}

/// Memory of a loaded vector: the index, which contains the vector, and the other columns, which
/// Milvus loads, too.
pub(super) fn milvus_memory(dimensions: f64, bytes_per_number: f64, index: Index) -> f64 {
    row(dimensions, bytes_per_number) + index.links()
}

/// Disk space or objects of a stored vector: the row in the binlogs, and the index, which contains
/// the vector again. For FLAT no index is stored.
pub(super) fn milvus_disk(dimensions: f64, bytes_per_number: f64, index: Index) -> f64 {
    let stored = match index {
        Index::Flat => 0.0,
        Index::Hnsw(_) | Index::IvfFlat => dimensions * bytes_per_number + index.links(),
    };
    row(dimensions, bytes_per_number) + stored
}

/// The image of a page. Between the resolutions of the table, and beyond them, a power of the
/// resolution that fits its two nearest lines.
pub(super) fn image(dpi: f64, format: Format) -> f64 {
    let sizes = IMAGES.map(|(dpi, png, webp)| match format {
        Format::Png => (dpi, png),
        Format::WebP => (dpi, webp),
    });
    let next = sizes.iter().position(|(known, _)| dpi <= *known);
    let next = next.unwrap_or(sizes.len() - 1).max(1);
    let ((dpi_a, a), (dpi_b, b)) = (sizes[next - 1], sizes[next]);
    let exponent = (b / a).ln() / (dpi_b / dpi_a).ln();
    a * (dpi / dpi_a).powf(exponent) * 1024.0
}

/// The resolution of an A4 page with `documents.render.dpi: []`, as `worker/rendering/src/geometry.rs`
/// chooses it. `pixels`: all that the model uses; 0 for a model that reads text.
pub(super) fn automatic_dpi(pixels: f64) -> f64 {
    let (lowest, highest) = AUTOMATIC_DPI;
    (pixels / A4).sqrt().ceil().clamp(lowest, highest)
}

/// A page in MongoDB with its part of the document's entry, before `WiredTiger` compresses it and
/// without the ledger.
pub(super) fn mongodb(pages_per_file: f64) -> f64 {
    MONGODB_PAGE + MONGODB_FILE / pages_per_file
}

#[cfg(test)]
#[path = "formulas_tests.rs"]
mod tests;
