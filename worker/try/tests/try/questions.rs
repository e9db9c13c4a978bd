//! The questions of `e2e/questions` about the four smallest documents of the demo: 273 pages. A
//! broken model, renderer or search finds other pages.

use serde_json::Value;

use crate::common::{Scene, artifact, output};

const LEAST_NDCG: f64 = 0.5;
const LEAST_HIT: f64 = 0.7;

#[test]
fn questions_find_their_pages() {
    let scene = Scene::new();
    let documents = artifact("LAYRA_PDFS", "pdfs");
    for name in ["fhs-3.0", "debian-faq", "debian-faq-fr", "debian-faq-it"] {
        let name = format!("{name}.pdf");
        std::fs::copy(documents.join(&name), scene.documents().join(&name)).unwrap();
    }
    let questions = concat!(env!("CARGO_MANIFEST_DIR"), "/../../e2e/questions");
    let mut command = scene.program();
    command
        .arg("evaluate")
        .arg(scene.documents())
        .args(["--questions", questions, "--json"]);
    let text = output(&mut command);
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["pages"], 273, "{text}");
    assert!(report["questions"].as_u64() >= Some(50), "{text}");
    assert!(report["ndcg@10"].as_f64() >= Some(LEAST_NDCG), "{text}");
    assert!(report["hit@5"].as_f64() >= Some(LEAST_HIT), "{text}");
}
