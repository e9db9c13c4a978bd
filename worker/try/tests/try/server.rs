//! The page's files and its API.

use serde_json::json;

use crate::common::Scene;

#[test]
fn the_api_answers_with_pages_pictures_and_the_original() {
    let scene = Scene::new();
    scene.write(
        "manuals/car.pdf",
        &["An introduction.", "Change the engine oil every year."],
    );
    scene.write("bread.pdf", &["Bake the bread in a hot oven."]);
    let server = scene.serve();
    server.until_pages(3);
    let found = server.search("oil for the motor");
    let best = &found["pages"][0];
    assert_eq!(best["file"], "manuals/car.pdf");
    assert_eq!(
        (&best["page"], &best["knowledge_base"]),
        (&json!(2), &json!("manuals"))
    );
    assert_eq!(best["snippet"], "Change the engine oil every year.");
    let heat = &best["heat"][0];
    // The line is at 72 points of 612, and 700 from the bottom of 792.
    assert!(
        (heat["left"].as_f64().unwrap() - 72.0 / 612.0).abs() < 0.02,
        "{heat}"
    );
    assert!(
        (heat["top"].as_f64().unwrap() - 80.0 / 792.0).abs() < 0.04,
        "{heat}"
    );
    let image = server.get(best["image"].as_str().unwrap());
    assert!(image.head.contains("content-type: image/webp") && image.body.starts_with(b"RIFF"));
    let link = best["original"].as_str().unwrap();
    let (path, place) = link.split_once('#').unwrap();
    let original = server.get(path);
    assert_eq!(place, "page=2");
    assert!(
        original.head.contains("content-type: application/pdf"),
        "{}",
        original.head
    );
    let file = std::fs::read(scene.documents().join("manuals/car.pdf")).unwrap();
    assert_eq!(original.body, file);
    let request = json!({"question": "oil", "knowledge_base": "documents"});
    let chosen = server.post(&request.to_string()).json();
    let files: Vec<_> = chosen["pages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|page| &page["file"])
        .collect();
    assert_eq!(files, [&json!("bread.pdf")]);
    assert!(chosen["pages"][0].get("heat").is_none(), "only on request");
}

#[test]
fn bad_requests_are_refused_in_one_form() {
    let scene = Scene::new();
    scene.write("a.pdf", &["text"]);
    let server = scene.serve();
    let long = json!({"question": "x".repeat(100_000)}).to_string();
    let huge = json!({"question": "ä".repeat(5_000)}).to_string();
    for (body, status) in [
        (r#"{"question": "  "}"#, 400),
        (huge.as_str(), 400),
        (long.as_str(), 413),
        (r#"{"question": "a", "top": 0}"#, 400),
        (r#"{"question": "a", "knowledge_base": "other"}"#, 400),
        (r#"{"question": "a", "unknown": 1}"#, 422),
        ("{", 400),
    ] {
        let answer = server.post(body);
        let body: String = body.chars().take(60).collect();
        assert_eq!(answer.status, status, "{body}");
        assert!(
            answer.head.contains("application/problem+json"),
            "{body}: {}",
            answer.head
        );
        assert_eq!(answer.json()["status"], status, "{body}");
    }
    for path in [
        "/v1/files/99/pages/1/image",
        "/v1/files/1/pages/0/image",
        "/v1/files/99/original",
        "/../etc/passwd",
    ] {
        assert_eq!(server.get(path).status, 404, "{path}");
    }
    // Another site may neither read through a name that points here, nor send a form.
    let other = server.send("GET /v1/status", &["host: evil.example"], "");
    assert_eq!(other.status, 403);
    let form = ["host: localhost", "content-type: text/plain"];
    let form = server.send("POST /v1/search", &form, r#"{"question": "a"}"#);
    assert_eq!(form.status, 415);
}

#[test]
fn browsers_are_told_to_fetch_nothing_from_elsewhere() {
    let scene = Scene::new();
    let server = scene.serve();
    for path in ["/", "/page.css", "/page.js", "/icon.svg"] {
        let answer = server.get(path);
        assert_eq!(answer.status, 200, "{path}");
        assert!(
            answer
                .head
                .contains("content-security-policy: default-src 'none'"),
            "{path}"
        );
        assert!(
            answer.head.contains("x-content-type-options: nosniff"),
            "{path}"
        );
    }
}

/// A checkpoint that reads the pictures of pages: what the question concerns are its tiles.
#[test]
fn a_visual_checkpoint_is_taken() {
    let scene = Scene::new();
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/../embedding/tests/fixtures");
    for page in ["page0.png", "page1.png"] {
        let picture = format!("{fixtures}/pages/{page}");
        std::fs::copy(picture, scene.documents().join(page)).unwrap();
    }
    let model = format!("{fixtures}/tiny-colqwen2.5");
    let server = scene.serve_with(&["--model", &model]);
    server.until_pages(2);
    let found = server.search("What is shown?");
    let pages = found["pages"].as_array().unwrap();
    assert_eq!(pages.len(), 2, "{found}");
    for page in pages {
        let heat = page["heat"].as_array().unwrap();
        assert!(heat.iter().any(|part| part["weight"] == 1.0), "{page}");
    }
}
