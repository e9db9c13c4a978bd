//! Compares every step with the reference, for every family.

use candle_core::{Device, Tensor};
use layra_embedding::Precision;
use layra_embedding::colqwen::{ColQwen, Options};
use sha2::{Digest, Sha256};

use crate::fixture::{FIXTURES, Fixture, TOLERANCE, assert_close, least_cosine, options};

/// The page whose pixels and vision output are in the fixtures.
const TRACED: usize = 2;

#[test]
fn resized_pages_match_the_reference_bit_for_bit() {
    for name in FIXTURES {
        let fixture = Fixture::open(name);
        let model = fixture.load();
        for (page, facts) in fixture.pages.iter().zip(&fixture.facts.pages) {
            let (rgb, size) = model.resize(page.image()).unwrap();
            assert_eq!((size.width, size.height), facts.resized_wh, "{name}");
            let hash = format!("{:x}", Sha256::digest(&rgb));
            assert_eq!(hash, facts.resized_rgb_sha256, "{name}");
        }
    }
}

#[test]
fn pixel_values_match_the_reference_bit_for_bit() {
    for name in FIXTURES {
        let fixture = Fixture::open(name);
        let trace = fixture
            .load()
            .trace_page(fixture.pages[TRACED].image())
            .unwrap();
        let expected = fixture.expected(&format!("page{TRACED}.pixel_values"));
        let grid = fixture
            .expected(&format!("page{TRACED}.grid_thw"))
            .to_vec1::<i64>()
            .unwrap();
        let columns = usize::try_from(grid[2]).unwrap() / 2;
        let rows = expected.to_vec2::<f32>().unwrap();
        let frame = rows[0].len() / 6;
        for (found, (row, column)) in trace
            .pixels
            .chunks_exact(frame * 3)
            .zip(&trace.pixels_order)
        {
            let unit = row / 2 * columns + column / 2;
            let expected = &rows[unit * 4 + row % 2 * 2 + column % 2];
            for (channel, found) in found.chunks_exact(frame).enumerate() {
                for copy in 0..2 {
                    let start = (channel * 2 + copy) * frame;
                    assert_eq!(found, &expected[start..start + frame], "{name}");
                }
            }
        }
    }
}

#[test]
fn ids_and_positions_match_the_reference() {
    for name in FIXTURES {
        let fixture = Fixture::open(name);
        let model = fixture.load();
        for (number, page) in fixture.pages.iter().enumerate() {
            let trace = model.trace_page(page.image()).unwrap();
            let ids: Vec<i64> = trace.ids.iter().map(|&id| i64::from(id)).collect();
            let expected = fixture.expected(&format!("page{number}.input_ids"));
            assert_eq!(
                ids,
                expected.to_vec1::<i64>().unwrap(),
                "{name} page {number}"
            );
            let positions = fixture.expected(&format!("page{number}.position_ids"));
            let positions = positions.to_vec2::<i64>().unwrap();
            for (token, found) in trace.positions.iter().enumerate() {
                let found = found.map(|axis| i64::try_from(axis).unwrap());
                let expected = [0, 1, 2].map(|axis: usize| positions[axis][token]);
                assert_eq!(found, expected, "{name} page {number} token {token}");
            }
        }
        for (number, query) in fixture.facts.queries.iter().enumerate() {
            let ids: Vec<i64> = model
                .query_ids(query)
                .unwrap()
                .into_iter()
                .map(i64::from)
                .collect();
            let expected = fixture.expected(&format!("query{number}.input_ids"));
            assert_eq!(
                ids,
                expected.to_vec1::<i64>().unwrap(),
                "{name} query {number}"
            );
        }
    }
}

#[test]
fn the_vision_tower_matches_the_reference() {
    for name in FIXTURES {
        let fixture = Fixture::open(name);
        let trace = fixture
            .load()
            .trace_page(fixture.pages[TRACED].image())
            .unwrap();
        // These values are not normalised, so they are larger.
        let tolerance = 3.0 * TOLERANCE;
        let expected = fixture.expected(&format!("page{TRACED}.vision"));
        assert_close(&trace.visual, expected, tolerance, name);
        for (number, found) in trace.deepstack.iter().enumerate() {
            let expected = fixture.expected(&format!("page{TRACED}.deepstack{number}"));
            assert_close(
                found,
                expected,
                tolerance,
                &format!("{name} deepstack {number}"),
            );
        }
    }
}

#[test]
fn pages_alone_and_together_match_the_reference() {
    for name in FIXTURES {
        let fixture = Fixture::open(name);
        let model = fixture.load();
        assert_eq!(model.width(), fixture.facts.dim);
        let together = model.embed_pages(&fixture.images()).unwrap();
        for (number, page) in fixture.pages.iter().enumerate() {
            let what = format!("{name} page {number}");
            let expected = fixture.expected(&format!("page{number}.embeddings"));
            let alone = model.embed_pages(&[page.image()]).unwrap().remove(0);
            assert_close(&alone, expected, TOLERANCE, &what);
            assert_close(&together[number], expected, TOLERANCE, &what);
            let padded = without_padding(&fixture, number);
            assert_close(&together[number], &padded, TOLERANCE, &what);
        }
    }
}

/// The page's rows of the batch, which the reference padded on the left.
fn without_padding(fixture: &Fixture, page: usize) -> Tensor {
    let rows = fixture.expected("batch.embeddings").get(page).unwrap();
    let tokens = fixture
        .expected(&format!("page{page}.embeddings"))
        .dim(0)
        .unwrap();
    rows.narrow(0, rows.dim(0).unwrap() - tokens, tokens)
        .unwrap()
}

#[test]
fn queries_and_scores_match_the_reference() {
    for name in FIXTURES {
        let fixture = Fixture::open(name);
        let model = fixture.load();
        let pages = model.embed_pages(&fixture.images()).unwrap();
        let scores = fixture.expected("scores").to_vec2::<f32>().unwrap();
        for (number, query) in fixture.facts.queries.iter().enumerate() {
            let found = model.embed_query(query).unwrap();
            let expected = fixture.expected(&format!("query{number}.embeddings"));
            assert_close(
                &found,
                expected,
                TOLERANCE,
                &format!("{name} query {number}"),
            );
            for (page, expected) in pages.iter().zip(&scores[number]) {
                let score = max_sim(&found, page);
                assert!(
                    (score - expected).abs() <= 2e-4,
                    "{name}: {score} is not {expected}"
                );
            }
        }
    }
}

#[test]
fn queries_of_a_batch_have_the_vectors_of_single_ones() {
    for name in FIXTURES {
        let fixture = Fixture::open(name);
        let model = fixture.load();
        let mut texts: Vec<&str> = fixture.facts.queries.iter().map(String::as_str).collect();
        texts.extend(["", "Who?"]);
        let together = model.embed_queries(&texts).unwrap();
        assert_eq!(together.len(), texts.len());
        for (text, vectors) in texts.iter().zip(&together) {
            let alone = model.embed_query(text).unwrap();
            assert_close(vectors, &alone, TOLERANCE, &format!("{name} {text:?}"));
        }
    }
}

fn max_sim(query: &Tensor, page: &Tensor) -> f32 {
    let best = query.matmul(&page.t().unwrap()).unwrap().max(1).unwrap();
    best.sum_all().unwrap().to_scalar().unwrap()
}

#[test]
fn a_merged_adapter_matches_the_reference() {
    for name in FIXTURES {
        let fixture = Fixture::open(name);
        let adapter = Some(fixture.directory.join("adapter"));
        let options = Options {
            adapter,
            ..options()
        };
        let model = ColQwen::load(&fixture.directory, &options).unwrap();
        let page = model
            .embed_pages(&[fixture.pages[TRACED].image()])
            .unwrap()
            .remove(0);
        let expected = fixture.expected(&format!("lora.page{TRACED}.embeddings"));
        assert_close(&page, expected, TOLERANCE, name);
        let query = model.embed_query(&fixture.facts.queries[0]).unwrap();
        assert_close(
            &query,
            fixture.expected("lora.query0.embeddings"),
            TOLERANCE,
            name,
        );
    }
}

#[test]
fn lower_precisions_stay_close_to_the_reference() {
    let allowed = [
        (Precision::Bf16, 0.998),
        (Precision::F16, 0.9999),
        (Precision::Q8, 0.995),
        (Precision::Q4, 0.6),
    ];
    for name in FIXTURES {
        let fixture = Fixture::open(name);
        for (precision, least) in allowed {
            let options = Options {
                precision: Some(precision),
                ..options()
            };
            let model = ColQwen::load(&fixture.directory, &options).unwrap();
            let pages = model.embed_pages(&fixture.images()).unwrap();
            for (number, page) in pages.iter().enumerate() {
                let expected = fixture.expected(&format!("page{number}.embeddings"));
                let cosine = least_cosine(page, expected);
                assert!(
                    cosine >= least,
                    "{name} page {number} {precision:?}: {cosine}"
                );
            }
        }
    }
}

#[test]
fn vectors_have_unit_length() {
    let fixture = Fixture::open("tiny-colqwen3");
    let page = fixture
        .load()
        .embed_pages(&fixture.images())
        .unwrap()
        .remove(0);
    let squares = page.sqr().unwrap().sum(1).unwrap();
    let ones = Tensor::ones(squares.dims(), squares.dtype(), &Device::Cpu).unwrap();
    assert_close(&squares, &ones, 1e-6, "squared length");
}
