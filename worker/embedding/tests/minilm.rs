//! all-MiniLM-L6-v2 with its real weights, compared with reference values of sentence-transformers.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests are not marked as tests"
)]

use std::fs;
use std::path::{Path, PathBuf};

use layra_embedding::{
    CheckpointFiles, DeviceChoice, EmbedError, Embedder, ModelFamily, MultiVector, PageInput,
    Settings, load,
};
use serde::Deserialize;

#[derive(Deserialize)]
struct Reference {
    sentences: Vec<Sentence>,
    cosines: Vec<Vec<f32>>,
}

#[derive(Deserialize)]
struct Sentence {
    text: String,
    tokens_untruncated: usize,
    first8: Vec<f32>,
    embedding: Option<Vec<f32>>,
}

/// Tokens of the model's window, `[CLS]` and `[SEP]` included.
const WINDOW: usize = 256;

fn reference() -> Reference {
    serde_json::from_str(include_str!("fixtures/minilm/minilm-reference.json")).unwrap()
}

/// The directory with the files of all-MiniLM-L6-v2.
fn checkpoint() -> PathBuf {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    let path = variable("LAYRA_MINILM").unwrap_or_else(|| {
        let home = variable("HOME").unwrap_or_else(|| "/root".into());
        let cache = variable("LAYRA_TESTBED_CACHE");
        let cache = cache.unwrap_or_else(|| home.join(".cache/layra-testbed"));
        cache.join("models/minilm")
    });
    assert!(
        path.exists(),
        "{} does not exist: run `cargo testbed artifacts`, or set LAYRA_MINILM",
        path.display()
    );
    path
}

fn model() -> Box<dyn Embedder> {
    open(&checkpoint()).unwrap()
}

fn open(directory: &Path) -> Result<Box<dyn Embedder>, EmbedError> {
    let settings = Settings {
        family: ModelFamily::Minilm,
        device: DeviceChoice::Cpu,
        precision: None,
        max_visual_tokens: None,
        batch_pages: 8,
        pool_factor: 1,
    };
    let files = CheckpointFiles {
        directory: directory.to_owned(),
        adapter: None,
    };
    load(&settings, &files)
}

fn page(text: &str) -> PageInput<'_> {
    PageInput { text, pixels: None }
}

fn assert_close(computed: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    for (index, (computed, expected)) in computed.iter().zip(expected).enumerate() {
        let difference = (computed - expected).abs();
        assert!(
            difference <= tolerance,
            "{what}, {index}: {computed} is not {expected}"
        );
    }
}

/// The vector of the first passage, which is the reference's vector of the whole text: it truncates
/// at 256 tokens.
fn first_row(vectors: &MultiVector) -> &[f32] {
    vectors.rows().next().unwrap()
}

#[test]
fn vectors_match_the_reference() {
    let reference = reference();
    let model = model();
    let vectors: Vec<MultiVector> = reference
        .sentences
        .iter()
        .map(|sentence| model.embed_query(&sentence.text).unwrap())
        .collect();
    let texts = reference.sentences.iter().map(|sentence| &*sentence.text);
    let together = model.embed_queries(&texts.collect::<Vec<_>>()).unwrap();
    for (together, alone) in together.iter().zip(&vectors) {
        assert_close(
            together.values(),
            alone.values(),
            1e-5,
            "queries of a batch",
        );
    }
    for (sentence, vectors) in reference.sentences.iter().zip(&vectors) {
        let row = first_row(vectors);
        assert_eq!(row.len(), model.dimensions());
        assert_close(row, &sentence.first8, 1e-4, &sentence.text);
        if let Some(expected) = &sentence.embedding {
            assert_eq!(row.len(), expected.len());
            assert_close(row, expected, 1e-4, &sentence.text);
        }
        assert_eq!(vectors.len() > 1, sentence.tokens_untruncated > WINDOW);
    }
    for (a, expected) in vectors.iter().zip(&reference.cosines) {
        let cosine = |b| {
            first_row(a)
                .iter()
                .zip(first_row(b))
                .map(|(a, b)| a * b)
                .sum::<f32>()
        };
        let cosines: Vec<f32> = vectors.iter().map(cosine).collect();
        assert_close(&cosines, expected, 1e-4, "cosine");
    }
}

#[test]
fn a_page_does_not_depend_on_its_neighbours() {
    let model = model();
    let long = "Offsets are committed after the vectors are stored. ".repeat(90);
    let texts = [
        "A short page.",
        long.as_str(),
        "",
        "Another page about Kafka consumer lag.",
    ];
    let together = model.embed_pages(&texts.map(page)).unwrap();
    for (text, together) in texts.iter().zip(&together) {
        let alone = model.embed_pages(&[page(text)]).unwrap().remove(0);
        assert_eq!(alone.len(), together.len());
        for (alone, together) in alone.rows().zip(together.rows()) {
            assert_close(together, alone, 1e-5, text);
        }
    }
}

#[test]
fn a_page_has_a_unit_vector_for_each_passage() {
    let model = model();
    let long = "one two three four five six seven eight nine ten ".repeat(60);
    let pages = model.embed_pages(&[page(""), page(&long)]).unwrap();
    assert_eq!(
        pages[0].len(),
        1,
        "an empty page has the vector of the empty text"
    );
    // 600 tokens: windows of 254 with a step of 222.
    assert_eq!(pages[1].len(), 3);
    for row in pages.iter().flat_map(MultiVector::rows) {
        let norm = row.iter().map(|value| value * value).sum::<f32>().sqrt();
        assert!((norm - 1.0).abs() < 1e-5);
    }
}

#[test]
fn a_question_finds_the_page_with_its_answer() {
    let model = model();
    let pages = [
        "Invoices are due within thirty days. Late payment costs interest of two percent.",
        "The engine oil must be changed every fifteen thousand kilometres.",
        "Employees have twenty-eight days of paid leave a year.",
    ];
    let vectors = model.embed_pages(&pages.map(page)).unwrap();
    let best = |question: &str| {
        let question = model.embed_query(question).unwrap();
        let score = |page: &usize| question.max_sim(&vectors[*page]);
        (0..pages.len())
            .max_by(|a, b| score(a).total_cmp(&score(b)))
            .unwrap()
    };
    assert_eq!(best("How many vacation days do I get?"), 2);
    assert_eq!(best("When do I have to pay a bill?"), 0);
    assert_eq!(best("How often does the car need maintenance?"), 1);
}

#[test]
fn a_missing_or_wrong_file_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let failure = || open(directory.path()).err().unwrap();
    let put = |name: &str| {
        fs::copy(checkpoint().join(name), directory.path().join(name)).unwrap();
    };

    assert!(matches!(failure(), EmbedError::Read { .. }));
    assert!(failure().to_string().contains("config.json"));

    fs::write(
        directory.path().join("config.json"),
        r#"{"model_type": "gpt2"}"#,
    )
    .unwrap();
    assert!(matches!(failure(), EmbedError::Config { .. }));

    put("config.json");
    fs::write(directory.path().join("tokenizer.json"), "{}").unwrap();
    assert!(matches!(failure(), EmbedError::Tokenizer { .. }));

    put("tokenizer.json");
    assert!(failure().to_string().contains("model.safetensors"));

    let config = fs::read_to_string(directory.path().join("config.json")).unwrap();
    let other = config.replace("\"vocab_size\": 30522", "\"vocab_size\": 30000");
    fs::write(directory.path().join("config.json"), other).unwrap();
    put("model.safetensors");
    let error = failure();
    assert!(matches!(error, EmbedError::Tensor { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains("embeddings.word_embeddings.weight"),
        "{error}"
    );
}
