//! The page, and what it asks.

use serde_json::json;

use super::*;

#[tokio::test]
async fn the_page_is_there_without_a_token_and_its_data_is_not() {
    let servers = Servers::ready(Access::closed()).await;
    for path in ["/", "/page.css", "/page.js", "/api.js", "/icon.svg"] {
        let response = servers
            .client
            .get(format!("http://{}{path}", servers.search))
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        let policy = response.headers()["content-security-policy"].to_str();
        assert!(policy.unwrap().contains("default-src 'none'"), "{path}");
    }
    let (status, body) = servers.get(servers.search, "/v1/knowledge_bases").await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "{body}");
    // Nothing of it is on LAYRA's port.
    let (status, _) = servers.get(servers.model, "/").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_token_sees_the_knowledge_bases_that_it_is_for() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let tokens = "- {token: for-one-base-123456, knowledgeBases: [a]}\n";
    std::fs::write(file.path(), tokens).unwrap();
    let servers = Servers::ready(Access::of_file(file.path().to_owned()).unwrap()).await;
    servers.library.insert("a", &[("f1", "i1", 1.0)]);
    servers.library.insert("b", &[("f2", "i2", 1.0)]);
    let request = servers
        .client
        .get(format!("http://{}/v1/knowledge_bases", servers.search));
    let request = request.bearer_auth("for-one-base-123456");
    let found: Value = request.send().await.unwrap().json().await.unwrap();
    let expected = json!({ "knowledge_bases": [{ "id": "a", "name": "a's" }] });
    assert_eq!(found, expected);
}

/// An original may be gone, or too large, or take too long.
#[tokio::test]
async fn pages_whose_heat_cannot_be_said_are_found_without_it() {
    let servers = Servers::ready(Access::open()).await;
    servers.library.insert("a", &[("f1", "i1", 1.0)]);
    let search = json!({
        "question": "who", "knowledge_bases": ["a"], "heat": true, "explain": true,
    });
    let (status, answer) = servers.search(&search).await;
    assert_eq!(status, StatusCode::OK);
    let page = &answer["pages"][0];
    assert_eq!(page["image_id"], "i1");
    assert!(
        page.get("heat").is_none() && page.get("file_key").is_none(),
        "{page}"
    );
    assert!(answer["explain"]["heat_ms"].is_number(), "{answer}");
}
