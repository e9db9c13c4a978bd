use proptest::prelude::*;

use super::*;

fn near(value: f64, expected: f64, tolerance: f64) {
    let difference = (value - expected).abs();
    assert!(difference <= tolerance * expected, "{value}: {expected}");
}

/// The guide's table, "for 1000 files/day", is the month of one machine by its 30,000 files.
#[test]
fn a_machine_around_the_clock_costs_what_the_guide_says() {
    for (monthly, file) in [
        (12_000.0, 0.40),
        (20_000.0, 0.67),
        (1_200.0, 0.04),
        (600.0, 0.02),
    ] {
        near(monthly / 30_000.0, file, 0.01);
    }
    // 1000 files of 50 pages a day.
    let arriving = 50_000.0 / SECONDS_PER_DAY;
    near(machines(arriving, 1.67), 1.0, 0.0);
    near(machines(arriving, 0.5), 2.0, 0.0);
}

/// The guide: 5M vectors of 1024 numbers are 20 GB, and the graph with M 32 is 1.2 GB.
#[test]
fn vectors_and_graph_have_the_size_that_the_guide_says() {
    near(5e6 * 1024.0 * 4.0, 20e9, 0.03);
    near(5e6 * hnsw_graph(32.0), 1.2e9, 0.15);
}

#[test]
fn images_have_the_measured_sizes_and_webp_is_about_a_quarter() {
    for (dpi, png, webp) in IMAGES {
        near(image(dpi, Format::Png), png * 1024.0, 1e-9);
        near(image(dpi, Format::WebP), webp * 1024.0, 1e-9);
    }
    near(image(125.0, Format::Png), 293.0 * 1024.0, 0.02);
}

#[test]
fn the_automatic_resolution_is_the_workers() {
    // As in docs/measurements.md: 768 tokens of 28 x 28 pixels are 79 DPI, so 100 are used.
    near(automatic_dpi(768.0 * 784.0), 100.0, 0.0);
    near(automatic_dpi(0.0), 100.0, 0.0);
    near(automatic_dpi(2000.0 * 784.0), 128.0, 0.0);
    near(automatic_dpi(1e9), 300.0, 0.0);
}

#[test]
fn a_page_of_768_tokens_has_the_vectors_that_layra_stores() {
    // LAYRA's page of 736 tokens has 747 vectors.
    near(most_vectors(736.0, 1.0), 747.0, 0.0);
    near(most_vectors(736.0, 3.0), 249.0, 0.0);
}

#[test]
fn the_documented_sizes_are_those_of_the_formulas() {
    let documented = include_str!("../../../../docs/sizing.md");
    let contains = |row: String| assert!(documented.contains(&row), "docs/sizing.md lacks {row}");
    let vectors = most_vectors(768.0, 1.0);
    for m in [8.0, 16.0, 32.0, 64.0] {
        let graph = hnsw_graph(m);
        let memory = vectors * milvus_memory(128.0, 4.0, Index::Hnsw(m)) / 1024.0;
        let disk = vectors * milvus_disk(128.0, 4.0, Index::Hnsw(m)) / 1024.0;
        contains(format!("| {m:.0} | {graph:.0} | {memory:.0} | {disk:.0} |"));
    }
    let index = Index::Hnsw(32.0);
    let pooled = most_vectors(768.0, 3.0) * milvus_memory(128.0, 4.0, index) / 1024.0;
    contains(format!("| `embedding.poolFactor: 3` | {pooled:.0} |"));
    let float16 = vectors * milvus_memory(128.0, 2.0, index) / 1024.0;
    contains(format!("| float16 | {float16:.0} |"));
}

proptest! {
    #[test]
    fn costs_are_proportional_to_pages_and_fall_with_speed(
        pages in 0.0..1e9_f64, speed in 0.01..1e3_f64, factor in 1.0..100.0_f64,
    ) {
        let hours = worker_hours(pages, speed);
        prop_assert!(hours >= 0.0 && hours.is_finite());
        let difference = worker_hours(pages * factor, speed) - hours * factor;
        prop_assert!(difference.abs() <= 1e-6 * (1.0 + hours * factor));
        prop_assert!(worker_hours(pages, speed * factor) <= hours * (1.0 + 1e-12));
    }

    #[test]
    fn machines_keep_up_and_none_is_superfluous(arriving in 0.0..1e4, speed in 0.01..1e3) {
        let machines = machines(arriving, speed);
        prop_assert!(machines >= 1.0);
        prop_assert!(machines * speed >= arriving * (1.0 - 1e-9));
        prop_assert!((machines - 1.0) * speed <= arriving * (1.0 + 1e-9));
    }

    #[test]
    fn smaller_numbers_and_fewer_links_never_need_more(
        dimensions in 8.0..4096.0, m in 4.0..64.0,
    ) {
        let index = Index::Hnsw(m);
        prop_assert!(hnsw_graph(m) > 8.0 * m, "at least the links of the lowest level");
        prop_assert!(hnsw_graph(m + 1.0) > hnsw_graph(m));
        for size in [milvus_memory, milvus_disk] {
            prop_assert!(size(dimensions, 2.0, index) < size(dimensions, 4.0, index));
            prop_assert!(size(dimensions, 4.0, Index::Flat) < size(dimensions, 4.0, Index::IvfFlat));
            prop_assert!(size(dimensions, 4.0, Index::IvfFlat) < size(dimensions, 4.0, index));
        }
        let vector = dimensions * 4.0;
        prop_assert!(milvus_memory(dimensions, 4.0, index) > vector);
        prop_assert!(milvus_disk(dimensions, 4.0, index) > 2.0 * vector);
    }

    #[test]
    fn images_grow_with_the_resolution_and_webp_is_always_smaller(
        dpi in 36.0..600.0, more in 1.001..2.0,
    ) {
        for format in [Format::Png, Format::WebP] {
            prop_assert!(image(dpi, format) > 0.0);
            prop_assert!(image(dpi * more, format) > image(dpi, format));
        }
        prop_assert!(image(dpi, Format::WebP) < image(dpi, Format::Png));
    }

    #[test]
    fn pooling_never_stores_more_and_at_least_one(tokens in 16.0..16_384.0, factor in 1_u32..64) {
        let pooled = most_vectors(tokens, f64::from(factor));
        prop_assert!(pooled >= 1.0 && pooled <= most_vectors(tokens, 1.0));
    }

    #[test]
    fn longer_documents_need_less_of_mongodb_for_a_page(pages in 1.0..1e4) {
        prop_assert!(mongodb(pages + 1.0) < mongodb(pages));
        prop_assert!(mongodb(pages) > MONGODB_PAGE);
    }
}
