//! Damaged checkpoints and unsupported images: errors name the file, the tensor and the cause.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use layra_embedding::colqwen::{ColQwen, ColQwenError, Family, Options, RgbImage};

use crate::fixture::{FIXTURES, Fixture, copy, options, weights, write_weights};

#[track_caller]
fn refused(directory: &Path) -> ColQwenError {
    match ColQwen::load(directory, &options()) {
        Ok(_) => panic!("the checkpoint should be refused"),
        Err(error) => error,
    }
}

fn replace(directory: &Path, file: &str, from: &str, to: &str) {
    let path = directory.join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{file} has no {from}");
    std::fs::write(path, text.replace(from, to)).unwrap();
}

#[test]
fn a_truncated_checkpoint_names_the_shard() {
    let copy = copy("tiny-colqwen2.5");
    let shard = copy.path().join("model-00002-of-00002.safetensors");
    for length in [400_000, 100, 3, 0] {
        std::fs::OpenOptions::new()
            .write(true)
            .open(&shard)
            .unwrap()
            .set_len(length)
            .unwrap();
        let error = refused(copy.path());
        assert!(matches!(error, ColQwenError::Damaged { .. }), "{error:?}");
        assert!(
            error.to_string().contains("model-00002-of-00002"),
            "{error}"
        );
    }
    std::fs::remove_file(shard).unwrap();
    let error = refused(copy.path());
    assert!(matches!(error, ColQwenError::Io { .. }), "{error:?}");
    assert!(
        error.to_string().contains("model-00002-of-00002"),
        "{error}"
    );
}

#[test]
fn missing_misshapen_and_mistyped_tensors_are_named() {
    let copy = copy("tiny-colqwen2");
    let original = weights(copy.path());
    write_weights(copy.path(), &original);
    let name = "visual.blocks.1.attn.qkv.weight";
    let with = |tensor: Option<Tensor>| {
        let mut weights = original.clone();
        weights.remove(name);
        weights.extend(tensor.map(|tensor| (name.to_owned(), tensor)));
        candle_core::safetensors::save(&weights, copy.path().join("model.safetensors")).unwrap();
        refused(copy.path())
    };
    let zeros = |shape: (usize, usize), dtype| Tensor::zeros(shape, dtype, &Device::Cpu).unwrap();

    let error = with(None);
    assert!(
        matches!(&error, ColQwenError::MissingTensor { .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains(name), "{error}");

    let error = with(Some(zeros((144, 47), DType::F32)));
    assert!(matches!(&error, ColQwenError::Shape { .. }), "{error:?}");
    assert!(
        error.to_string().contains("[144, 47], expected [144, 48]"),
        "{error}"
    );
    for part in [name, "model.safetensors"] {
        assert!(error.to_string().contains(part), "{error}");
    }

    let error = with(Some(zeros((144, 48), DType::U8)));
    assert!(matches!(&error, ColQwenError::Dtype { .. }), "{error:?}");
    for part in [name, "model.safetensors", "U8"] {
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn a_model_without_a_projection_is_refused() {
    let copy = copy("tiny-colqwen2.5");
    let mut weights = weights(copy.path());
    weights.retain(|name, _| !name.starts_with("custom_text_proj"));
    write_weights(copy.path(), &weights);
    let error = refused(copy.path());
    assert!(
        error
            .to_string()
            .contains("custom_text_proj.weight is missing"),
        "{error}"
    );
}

#[test]
fn unknown_models_and_other_families_are_refused() {
    let copy = copy("tiny-colqwen2.5");
    let error = ColQwen::load_family(Family::ColQwen3, copy.path(), &options())
        .err()
        .unwrap();
    assert!(
        matches!(error, ColQwenError::FamilyMismatch { .. }),
        "{error:?}"
    );
    assert!(
        error
            .to_string()
            .contains("is of family colqwen2_5, not colqwen3"),
        "{error}"
    );
    replace(copy.path(), "config.json", "\"qwen2_5_vl\"", "\"llama\"");
    let error = refused(copy.path());
    assert!(
        matches!(&error, ColQwenError::UnknownModel { model_type, .. }
        if model_type == "llama"),
        "{error:?}"
    );
    assert!(error.to_string().contains("config.json"), "{error}");
}

#[test]
fn inconsistent_configurations_are_refused() {
    let cases = [
        (
            "config.json",
            "\"num_attention_heads\": 4",
            "\"num_attention_heads\": 0",
        ),
        (
            "config.json",
            "\"num_attention_heads\": 4",
            "\"num_attention_heads\": 3",
        ),
        (
            "config.json",
            "\"hidden_size\": 64,\n    \"initializer",
            "\"initializer",
        ),
        (
            "config.json",
            "\"out_hidden_size\": 64",
            "\"out_hidden_size\": 65",
        ),
        ("config.json", "\"window_size\": 112", "\"window_size\": 1"),
        ("config.json", "{", "["),
        (
            "processor_config.json",
            "\"patch_size\": 14",
            "\"patch_size\": 16",
        ),
        (
            "processor_config.json",
            "\"shortest_edge\": 3136",
            "\"shortest_edge\": 0",
        ),
    ];
    for (file, from, to) in cases {
        let copy = copy("tiny-colqwen2.5");
        replace(copy.path(), file, from, to);
        let error = refused(copy.path());
        assert!(
            matches!(error, ColQwenError::Config { .. }),
            "{from}: {error:?}"
        );
        assert!(error.to_string().contains(file), "{error}");
    }
}

#[test]
fn a_vocabulary_without_the_image_token_is_refused() {
    let copy = copy("tiny-colqwen3");
    replace(
        copy.path(),
        "tokenizer.json",
        "<|image_pad|>",
        "<|picture|>",
    );
    let error = refused(copy.path());
    assert!(matches!(error, ColQwenError::Tokenizer { .. }), "{error:?}");
    assert!(
        error.to_string().contains("no token <|image_pad|>"),
        "{error}"
    );
    assert!(error.to_string().contains("tokenizer.json"), "{error}");
}

#[test]
fn an_image_token_of_another_id_is_refused() {
    let copy = copy("tiny-colqwen3");
    replace(
        copy.path(),
        "config.json",
        "\"image_token_id\": 412",
        "\"image_token_id\": 99",
    );
    let error = refused(copy.path());
    assert!(
        error.to_string().contains("has id 412, config.json has 99"),
        "{error}"
    );
}

#[test]
fn an_adapter_for_another_base_is_refused() {
    let adapter = Some(Fixture::open("tiny-colqwen3").directory.join("adapter"));
    let base = copy("tiny-colqwen2");
    let error = ColQwen::load(
        base.path(),
        &Options {
            adapter,
            ..options()
        },
    )
    .err()
    .unwrap();
    assert!(matches!(error, ColQwenError::Adapter { .. }), "{error:?}");
    assert!(error.to_string().contains("another base"), "{error}");
    assert!(
        error.to_string().contains("adapter_model.safetensors"),
        "{error}"
    );
}

#[test]
fn an_adapter_for_weights_that_do_not_exist_is_refused() {
    let fixture = Fixture::open("tiny-colqwen2");
    let copy = tempfile::tempdir().unwrap();
    let source = fixture.directory.join("adapter");
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(source.join(file), copy.path().join(file)).unwrap();
    }
    let path = copy.path().join("adapter_model.safetensors");
    let weights = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    let renamed = weights
        .into_iter()
        .map(|(name, tensor)| (name.replace("layers.2", "layers.20"), tensor))
        .collect();
    candle_core::safetensors::save::<String, _>(&renamed, &path).unwrap();
    let adapter = Some(copy.path().to_owned());
    let load = || {
        ColQwen::load(
            &fixture.directory,
            &Options {
                adapter: adapter.clone(),
                ..options()
            },
        )
        .err()
        .unwrap()
        .to_string()
    };
    assert!(load().contains("layers.20"), "{}", load());
    replace(
        copy.path(),
        "adapter_config.json",
        "\"use_dora\": false",
        "\"use_dora\": true",
    );
    assert!(load().contains("use_dora is not supported"), "{}", load());
}

#[test]
fn unsupported_images_are_refused_and_tiny_ones_are_not() {
    for name in FIXTURES {
        let model = Fixture::open(name).load();
        let embed = |width: usize, height: usize, bytes: usize| {
            let rgb = vec![200; bytes];
            let vectors = model.embed_pages(&[RgbImage {
                width,
                height,
                rgb: &rgb,
            }])?;
            Ok::<_, ColQwenError>(vectors[0].dims().to_vec())
        };
        for (width, height, bytes) in [(0, 9, 0), (9, 0, 0), (1, 201, 603), (4, 4, 47)] {
            let error = embed(width, height, bytes).unwrap_err();
            assert!(matches!(error, ColQwenError::Image { .. }), "{error:?}");
            assert!(
                error.to_string().contains(&format!("{width}x{height}")),
                "{error}"
            );
        }
        assert!(embed(1, 1, 3).unwrap()[0] > 14);
        assert!(embed(200, 1, 600).unwrap()[0] > 14);
    }
}
