//! Pages of a batch do not affect each other.

use layra_embedding::colqwen::{ColQwen, Options, RgbImage};
use proptest::prelude::*;

use crate::fixture::{FIXTURES, Fixture, Page, assert_close, options};

/// A page cropped from another one, so that batches mix grids of all shapes.
fn crop(page: &Page, width: usize, height: usize) -> Page {
    let (width, height) = (width.min(page.width), height.min(page.height));
    let rows = page.rgb.chunks_exact(page.width * 3).take(height);
    Page {
        width,
        height,
        rgb: rows.flat_map(|row| &row[..width * 3]).copied().collect(),
    }
}

fn batch() -> impl Strategy<Value = (usize, Vec<(usize, usize, usize)>, usize)> {
    let page = (0..3_usize, 20..700_usize, 20..900_usize);
    (
        0..FIXTURES.len(),
        prop::collection::vec(page, 1..5),
        1..300_usize,
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn a_pages_vectors_do_not_depend_on_its_neighbours(
        (fixture, cuts, batch_tokens) in batch()
    ) {
        let fixture = Fixture::open(FIXTURES[fixture]);
        let options = Options { batch_tokens, ..options() };
        let model = ColQwen::load(&fixture.directory, &options).unwrap();
        let pages: Vec<Page> = cuts
            .iter()
            .map(|&(page, width, height)| crop(&fixture.pages[page], width, height))
            .collect();
        let images: Vec<RgbImage> = pages.iter().map(Page::image).collect();
        let together = model.embed_pages(&images).unwrap();
        for (image, found) in images.iter().zip(&together) {
            let alone = model.embed_pages(&[*image]).unwrap().remove(0);
            assert_close(found, &alone, 5e-6, "a page among others");
        }
    }
}

#[test]
fn the_order_of_pages_is_kept_across_batches() {
    let fixture = Fixture::open("tiny-colqwen2.5");
    let options = Options {
        batch_tokens: 1,
        ..options()
    };
    let model = ColQwen::load(&fixture.directory, &options).unwrap();
    let pages = model.embed_pages(&fixture.images()).unwrap();
    for (number, page) in pages.iter().enumerate() {
        let expected = fixture.expected(&format!("page{number}.embeddings"));
        assert_eq!(page.dims(), expected.dims());
    }
    assert!(model.embed_pages(&[]).unwrap().is_empty());
}

#[test]
fn fewer_visual_tokens_make_fewer_vectors() {
    let fixture = Fixture::open("tiny-colqwen2");
    let options = Options {
        max_visual_tokens: Some(16),
        ..options()
    };
    let model = ColQwen::load(&fixture.directory, &options).unwrap();
    let page = model
        .embed_pages(&[fixture.pages[0].image()])
        .unwrap()
        .remove(0);
    assert!(page.dim(0).unwrap() <= 16 + 14, "{:?}", page.dims());
}
