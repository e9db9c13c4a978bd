//! All published layouts of tensor names and of `config.json` load as the same model.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use layra_embedding::colqwen::{ColQwen, Family, Options};
use serde_json::{Map, Value, json};

use crate::fixture::{
    FIXTURES, Fixture, TOLERANCE, assert_close, copy, options, weights, write_weights,
};

type Names = HashMap<String, HashMap<String, String>>;

fn names(directory: &Path) -> Names {
    let text = std::fs::read(directory.join("names.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

fn renamed(
    tensors: HashMap<String, Tensor>,
    names: &Names,
    layout: &str,
) -> HashMap<String, Tensor> {
    tensors
        .into_iter()
        .map(|(name, tensor)| (names[&name][layout].clone(), tensor))
        .collect()
}

fn config(directory: &Path) -> Map<String, Value> {
    let text = std::fs::read(directory.join("config.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

fn write_config(directory: &Path, config: &Map<String, Value>) {
    let text = serde_json::to_vec(config).unwrap();
    std::fs::write(directory.join("config.json"), text).unwrap();
}

#[track_caller]
fn assert_is_reference(directory: &Path, fixture: &Fixture) {
    let model = ColQwen::load(directory, &options()).unwrap();
    let page = model
        .embed_pages(&[fixture.pages[2].image()])
        .unwrap()
        .remove(0);
    assert_close(
        &page,
        fixture.expected("page2.embeddings"),
        TOLERANCE,
        "page 2",
    );
}

#[test]
fn every_layout_of_names_matches_the_reference() {
    for (name, layouts) in [
        ("tiny-colqwen2", ["bare", "hub"]),
        ("tiny-colqwen2.5", ["bare", "hub"]),
        ("tiny-colqwen3", ["bare", "vlm"]),
    ] {
        let fixture = Fixture::open(name);
        let names = names(&fixture.directory);
        for layout in layouts {
            let copy = copy(name);
            let mut weights = renamed(weights(copy.path()), &names, layout);
            // Checkpoints of generative models have a head that embedders do not use.
            let head = Tensor::zeros((4, 4), candle_core::DType::F32, &Device::Cpu).unwrap();
            weights.insert("lm_head.weight".to_owned(), head);
            write_weights(copy.path(), &weights);
            assert_is_reference(copy.path(), &fixture);
        }
    }
}

#[test]
fn the_transformers_layout_matches_the_reference() {
    let fixture = Fixture::open("tiny-colqwen2");
    let copy = copy("tiny-colqwen2");
    let weights = weights(copy.path())
        .into_iter()
        .map(
            |(name, tensor)| match name.strip_prefix("custom_text_proj.") {
                Some(leaf) => (format!("embedding_proj_layer.{leaf}"), tensor),
                None => (format!("vlm.{name}"), tensor),
            },
        )
        .collect();
    write_weights(copy.path(), &weights);
    let inner = config(copy.path());
    let wrapped = json!({
        "model_type": "colqwen2", "architectures": ["ColQwen2ForRetrieval"],
        "embedding_dim": 128, "vlm_config": inner,
    });
    write_config(copy.path(), wrapped.as_object().unwrap());
    assert_is_reference(copy.path(), &fixture);
}

#[test]
fn the_flat_configuration_of_older_checkpoints_matches_the_reference() {
    for name in ["tiny-colqwen2", "tiny-colqwen2.5"] {
        let fixture = Fixture::open(name);
        let copy = copy(name);
        let mut flat = config(copy.path());
        let mut text = flat
            .remove("text_config")
            .unwrap()
            .as_object()
            .unwrap()
            .clone();
        let rope = text.remove("rope_parameters").unwrap();
        text.remove("model_type");
        flat.extend(text);
        flat.insert("rope_theta".to_owned(), rope["rope_theta"].clone());
        let sections = json!({"type": "mrope", "mrope_section": rope["mrope_section"]});
        flat.insert("rope_scaling".to_owned(), sections);
        let vision = flat["vision_config"].as_object_mut().unwrap();
        let patch = vision.remove("patch_size").unwrap();
        vision.insert("spatial_patch_size".to_owned(), patch);
        write_config(copy.path(), &flat);
        std::fs::remove_file(copy.path().join("processor_config.json")).unwrap();
        assert_is_reference(copy.path(), &fixture);
    }
}

#[test]
fn the_nested_configuration_matches_the_reference() {
    let fixture = Fixture::open("tiny-colqwen3");
    let copy = copy("tiny-colqwen3");
    let mut config = config(copy.path());
    config.insert("model_type".to_owned(), json!("colqwen3"));
    config.insert("embed_dim".to_owned(), json!(320));
    write_config(copy.path(), &config);
    assert_is_reference(copy.path(), &fixture);
    let model = ColQwen::load(copy.path(), &options()).unwrap();
    let query = model
        .embed_query(&format!("  {} \n", fixture.facts.queries[0]))
        .unwrap();
    assert_close(
        &query,
        fixture.expected("query0.embeddings"),
        TOLERANCE,
        "stripped query",
    );
}

#[test]
fn vectors_may_be_truncated_before_they_are_normalised() {
    let fixture = Fixture::open("tiny-colqwen3");
    let copy = copy("tiny-colqwen3");
    let mut config = config(copy.path());
    config.insert("model_type".to_owned(), json!("ops_colqwen3"));
    config.insert("dims".to_owned(), json!(64));
    write_config(copy.path(), &config);
    let model = ColQwen::load(copy.path(), &options()).unwrap();
    assert_eq!(model.width(), 64);
    let page = model
        .embed_pages(&[fixture.pages[2].image()])
        .unwrap()
        .remove(0);
    let squares = page
        .sqr()
        .unwrap()
        .sum(1)
        .unwrap()
        .to_vec1::<f32>()
        .unwrap();
    assert!(squares.iter().all(|square| (square - 1.0).abs() < 1e-5));
}

#[test]
fn an_adapter_and_its_base_may_have_different_layouts() {
    for name in ["tiny-colqwen2", "tiny-colqwen2.5"] {
        let fixture = Fixture::open(name);
        let names = names(&fixture.directory);
        let copy = copy(name);
        let source = fixture.directory.join("adapter");
        std::fs::copy(
            source.join("adapter_config.json"),
            copy.path().join("adapter_config.json"),
        )
        .unwrap();
        let weights =
            candle_core::safetensors::load(source.join("adapter_model.safetensors"), &Device::Cpu);
        let hub = renamed(weights.unwrap(), &names, "hub");
        candle_core::safetensors::save(&hub, copy.path().join("adapter_model.safetensors"))
            .unwrap();
        // The adapter is in the base's directory, so it is found without being named.
        let model = ColQwen::load(
            copy.path(),
            &Options {
                adapter: None,
                ..options()
            },
        )
        .unwrap();
        let page = model
            .embed_pages(&[fixture.pages[2].image()])
            .unwrap()
            .remove(0);
        assert_close(
            &page,
            fixture.expected("lora.page2.embeddings"),
            TOLERANCE,
            name,
        );
    }
}

#[test]
fn the_family_is_read_from_the_checkpoint() {
    let families = [Family::ColQwen2, Family::ColQwen2_5, Family::ColQwen3];
    for (name, family) in FIXTURES.into_iter().zip(families) {
        let fixture = Fixture::open(name);
        assert_eq!(fixture.load().family(), family);
        assert!(ColQwen::load_family(family, &fixture.directory, &options()).is_ok());
    }
}
