//! Token pooling compared with scipy's clustering, which the reference pooler uses.

use candle_core::Device;
use layra_embedding::colqwen::pool;

use crate::fixture::{Fixture, root};

#[test]
fn pooled_pages_match_the_reference() {
    let expected =
        candle_core::safetensors::load(root().join("pooling.safetensors"), &Device::Cpu).unwrap();
    for family in ["colqwen2.5", "colqwen3"] {
        let fixture = Fixture::open(&format!("tiny-{family}"));
        for page in 0..3 {
            let vectors = fixture.expected(&format!("page{page}.embeddings"));
            let width = vectors.dim(1).unwrap();
            let vectors = vectors.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for factor in [2, 3, 7] {
                let name = format!("{family}.page{page}.factor{factor}");
                let expected = expected[&name]
                    .flatten_all()
                    .unwrap()
                    .to_vec1::<f32>()
                    .unwrap();
                let found = pool(&vectors, width, factor);
                assert_eq!(found.len(), expected.len(), "{name}");
                for (a, b) in found.iter().zip(&expected) {
                    assert!((a - b).abs() < 1e-6, "{name}: {a} is not {b}");
                }
            }
        }
    }
}

#[test]
fn small_pages_and_small_factors_are_not_pooled() {
    let vectors = [1.0, 0.0, 0.0, 1.0, 0.6, 0.8];
    assert_eq!(pool(&vectors, 2, 1), vectors);
    assert_eq!(pool(&vectors[..2], 2, 3), &vectors[..2]);
    assert_eq!(pool(&[], 2, 3), [0.0; 0]);
    // Three vectors at a factor of 3 are one cluster.
    assert_eq!(pool(&vectors, 2, 3).len(), 2);
    assert_eq!(pool(&vectors[..4], 2, 5).len(), 2);
}
