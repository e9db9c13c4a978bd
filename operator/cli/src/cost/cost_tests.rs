use layra_crds::{LearnedStatus, ModelStatus, ScalingInputs, ScalingStatus, VectorType};
use proptest::prelude::*;
use serde_json::Value;

use super::inputs::Source;
use super::report::{Report, report};
use super::*;

const PIPELINE: &str = include_str!("../../../../docs/scaling/pipeline.yaml");
const PRICES: &str = include_str!("../../../../docs/prices.yaml");

/// A pipeline whose workers have run: 2.5 pages a second, 50 pages a file, 0.5 arriving pages.
fn measured() -> layra_crds::IngestionPipeline {
    let mut pipeline = object_file::parse(PIPELINE).unwrap();
    pipeline.spec.embedding.max_visual_tokens = Some(768);
    let status = pipeline.status.get_or_insert_default();
    status.model = Some(ModelStatus {
        checksum: "a".into(),
        dimensions: 128,
        bytes: 1,
        revision: None,
    });
    status.scaling = Some(ScalingStatus {
        learned: Some(LearnedStatus {
            pages_per_second: 2.5,
            pages_per_document: 50.0,
            ..LearnedStatus::default()
        }),
        inputs: Some(ScalingInputs {
            arriving_pages_per_second: Some(0.5),
            ..ScalingInputs::default()
        }),
        ..ScalingStatus::default()
    });
    pipeline
}

fn prices(more: &str) -> Prices {
    Prices::parse(&format!("{PRICES}{more}")).unwrap()
}

fn value(report: &Report, section: &str, name: &str) -> (f64, Option<f64>) {
    let sections = report.sections.iter();
    let mut figures = sections
        .filter(|found| found.title == section)
        .flat_map(|section| &section.figures);
    let found = figures.find(|figure| figure.name == name);
    let figure = found.unwrap_or_else(|| panic!("{section}: {name} in {report:?}"));
    (figure.value, figure.price_per_month)
}

fn near(value: f64, expected: f64) {
    let difference = (value - expected).abs();
    assert!(difference <= 0.01 * expected, "{value}: {expected}");
}

#[test]
fn a_table_has_every_number_with_its_source() {
    let prices = prices("workload: {storedPages: 1000000}");
    insta::assert_snapshot!(table::table(&report(&measured(), Some(&prices))));
}

#[test]
fn what_is_missing_is_named_and_never_invented() {
    let pipeline = object_file::parse(PIPELINE).unwrap();
    let report = report(&pipeline, None);
    insta::assert_snapshot!(table::table(&report));
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["sections"], serde_json::json!([]));
    let missing = json["missing"].as_array().unwrap();
    let named = |input: &str| missing.iter().any(|missing| missing["input"] == input);
    for input in [
        "pages a second of one worker",
        "stored pages",
        "dimensions of a vector",
        "price of S3",
    ] {
        assert!(named(input), "{input}: {json}");
    }
}

#[test]
fn the_guides_files_cost_what_its_table_says() {
    for (hardware, file) in [("a100", 0.40), ("h100", 0.67), ("t4", 0.08), ("l4", 0.02)] {
        let text = PRICES.replace("workers: l4", &format!("workers: {hardware}"));
        let text = format!("{text}workload: {{filesPerDay: 1000, pagesPerFile: 50}}");
        let prices = Prices::parse(&text).unwrap();
        let report = report(&object_file::parse(PIPELINE).unwrap(), Some(&prices));
        // A T4 would have to be two: 1000 files are 0.58 pages a second, it computes 0.5.
        let name = "a file, with machines around the clock";
        let (value, _) = value(&report, "computing", name);
        // The guide counts a month as 30 days.
        assert!((value - file).abs() < 0.015, "{hardware}: {value}");
    }
}

#[test]
fn measured_numbers_win_over_the_hardwares_and_the_workload_over_measured_ones() {
    let report_of = |more: &str| report(&measured(), Some(&prices(more)));
    let plain = report_of("");
    near(value(&plain, "inputs", "pages of one worker").0, 2.5);
    near(
        value(&plain, "computing", "1,000 pages").0,
        600.0 / 730.0 * 1000.0 / 2.5 / 3600.0,
    );
    near(
        value(&plain, "computing", "GPU hours at present arrivals").0,
        730.0 * 0.5 / 2.5,
    );
    let expected = report_of("workload: {pagesPerFile: 10, filesPerDay: 864}");
    near(value(&expected, "inputs", "arriving pages").0, 0.1);
    let json = serde_json::to_value(&expected).unwrap();
    let inputs = json["sections"][0]["figures"].as_array().unwrap();
    let source = |name: &str| {
        let mut named = inputs.iter().filter(|input| input["name"] == name);
        named.next().unwrap()["source"].clone()
    };
    assert_eq!(source("pages of a file"), "from the price file");
    assert_eq!(source("pages of one worker"), "measured");
    assert_eq!(source("page image"), "derived");
}

#[test]
fn settings_in_use_save_nothing_more() {
    let mut pipeline = measured();
    pipeline.spec.documents.render.image_format = layra_crds::ImageFormat::WebP;
    pipeline.spec.documents.render.dpi = Vec::new();
    pipeline.spec.embedding.pool_factor = 3;
    let report = report(&pipeline, Some(&prices("workload: {storedPages: 1000}")));
    for name in [
        "WebP",
        "embedding.poolFactor: 3",
        "automatic resolution (dpi: [])",
    ] {
        let (gib, price) = value(&report, "savings in a year", name);
        assert!(
            gib.abs() < 1e-9 && price.unwrap().abs() < 1e-9,
            "{name}: {gib}"
        );
    }
    assert!(value(&report, "savings in a year", "vectors in float16").0 > 0.0);
}

#[test]
fn vectors_of_another_format_take_their_own_bytes() {
    let report_of = |format| {
        let mut pipeline = measured();
        pipeline.spec.stores.milvus.vector_type = format;
        report(&pipeline, Some(&prices("workload: {storedPages: 1000}")))
    };
    let (full, half, byte) = (
        report_of(VectorType::Float32),
        report_of(VectorType::Float16),
        report_of(VectorType::Int8),
    );
    let saved = |report| value(report, "savings in a year", "vectors in float16").0;
    let memory = |report| value(report, "storage now", "Milvus, memory").0;
    assert!(saved(&full) > 0.0);
    assert!(saved(&half).abs() < 1e-9);
    assert!(saved(&byte).abs() < 1e-9);
    assert!(memory(&byte) < memory(&half) && memory(&half) < memory(&full));
}

#[test]
fn a_price_that_is_missing_leaves_out_only_what_needs_it() {
    let text = "currency: USD\nstorage: {s3: 0.02}\nworkload: {storedPages: 1000}";
    let prices = Prices::parse(text).unwrap();
    let report = report(&measured(), Some(&prices));
    assert!(value(&report, "storage now", "S3").1.is_some());
    assert!(value(&report, "storage now", "Milvus, memory").1.is_none());
    assert!(value(&report, "savings in a year", "WebP").1.is_some());
    assert!(
        value(&report, "savings in a year", "vectors in float16")
            .1
            .is_none()
    );
}

proptest! {
    #[test]
    fn storage_and_its_savings_are_never_negative_and_savings_never_exceed_it(
        pages in 0.0..1e9, arriving in 0.0..1e3, vectors in 1.0..2e3, webp: bool, pool in 1_u32..10,
    ) {
        let mut pipeline = measured();
        pipeline.spec.embedding.pool_factor = pool;
        if webp {
            pipeline.spec.documents.render.image_format = layra_crds::ImageFormat::WebP;
        }
        let scaling = pipeline.status.as_mut().unwrap().scaling.as_mut().unwrap();
        scaling.inputs.as_mut().unwrap().arriving_pages_per_second = Some(arriving);
        let workload = format!(
            "workload: {{storedPages: {pages:.3}, vectorsPerPage: {vectors:.3}}}"
        );
        let report = report(&pipeline, Some(&prices(&workload)));
        let total = |title: &str| -> f64 {
            let sections = report.sections.iter().filter(|section| section.title == title);
            sections.flat_map(|section| &section.figures).map(|figure| figure.value).sum()
        };
        prop_assert!(total("storage in a year") >= total("storage now") - 1e-9);
        let all = total("storage in a year");
        for section in report.sections.iter().filter(|section| section.title.starts_with("savings")) {
            for figure in &section.figures {
                prop_assert!(figure.value >= -1e-9 && figure.value <= all * (1.0 + 1e-9));
                prop_assert_eq!(figure.source, Source::Derived);
            }
        }
    }
}

#[test]
fn the_json_names_the_pipeline_and_its_currency() {
    let json: Value = serde_json::to_value(report(&measured(), Some(&prices("")))).unwrap();
    assert_eq!(
        (&json["name"], &json["currency"]),
        (&"comparison".into(), &"USD".into())
    );
}
