//! LAYRA's model server.

use serde_json::json;

use super::*;

#[tokio::test]
async fn texts_are_answered_as_layras_model_server_does() {
    let servers = Servers::ready(Access::closed()).await;
    let response = servers.embed_text(r#"{"queries": ["who", ""]}"#).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "application/json");
    let embeddings: Value = response.json().await.unwrap();
    assert_eq!(
        embeddings,
        json!({ "embeddings": [[[3.0, 1.0]], [[0.0, 1.0]]] })
    );
    let empty = servers.embed_text(r#"{"queries": [], "more": 1}"#).await;
    assert_eq!(empty.text().await.unwrap(), r#"{"embeddings":[]}"#);
    let (status, health) = servers.get(servers.model, "/healthy-check").await;
    let health: Value = serde_json::from_str(&health).unwrap();
    let up = json!({ "status": "UP", "details": "All systems operational" });
    assert_eq!((status, health), (StatusCode::OK, up));
    let (status, body) = servers.get(servers.model, "/v1/search").await;
    assert_eq!(
        (status, &*body),
        (StatusCode::NOT_FOUND, r#"{"detail":"Not Found"}"#)
    );
    let (status, _) = servers.get(servers.model, "/embed_text").await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn wrong_texts_are_refused_in_the_form_of_layras_framework() {
    let servers = Servers::ready(Access::closed()).await;
    let long = json!({ "queries": ["x".repeat(100_000)] }).to_string();
    let many = json!({ "queries": vec![""; 300] }).to_string();
    for (body, status, words) in [
        ("{}".to_owned(), 422, "missing field `queries`"),
        ("{\"queries\": \"who\"}".to_owned(), 422, "sequence"),
        ("queries".to_owned(), 422, "not JSON"),
        (long, 422, "8000 characters"),
        (many, 422, "256 texts"),
        (
            r#"{"queries": ["unreadable"]}"#.to_owned(),
            422,
            "tokenized",
        ),
        (" ".repeat(3 << 20), 413, "bytes"),
    ] {
        let response = servers.embed_text(body).await;
        assert_eq!(response.status().as_u16(), status, "{words}");
        let body: Value = response.json().await.unwrap();
        let detail = &body["detail"];
        let message = detail[0]["msg"].as_str().or(detail.as_str()).unwrap();
        assert!(message.contains(words), "{message}");
        assert_eq!(detail.is_array(), status == 422);
    }
    let url = format!("http://{}/embed_text?encoding=f8", servers.model);
    let wrong = servers.client.post(url).body("{}").send().await.unwrap();
    assert_eq!(wrong.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_request_without_an_image_is_refused() {
    let servers = Servers::ready(Access::closed()).await;
    let url = format!("http://{}/embed_image", servers.model);
    let multipart = "--b\r\ncontent-disposition: form-data; name=\"other\"\r\n\r\nx\r\n--b--\r\n";
    for (kind, body, status) in [
        ("multipart/form-data; boundary=b", multipart, 422),
        ("application/json", "{}", 422),
        ("multipart/form-data; boundary=b", "--b\r\ncontent-dis", 400),
        (
            "multipart/form-data; boundary=b",
            "--b\r\ncontent-disposition: form-data; name=\"images\"; filename=\"a\"\r\n\r\n\r\n--b--\r\n",
            422,
        ),
    ] {
        let request = servers.client.post(&url).header("content-type", kind);
        let response = request.body(body).send().await.unwrap();
        assert_eq!(response.status().as_u16(), status, "{body}");
        let body: Value = response.json().await.unwrap();
        assert!(!body["detail"].is_null(), "{body}");
    }
}

#[tokio::test]
async fn before_the_model_is_loaded_clients_are_told_to_come_back() {
    let servers = Servers::starting(Access::open()).await;
    let response = servers.embed_text(r#"{"queries": ["who"]}"#).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["retry-after"], "5");
    let (status, health) = servers.get(servers.model, "/healthy-check").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(health.contains("DOWN"), "{health}");
    let search = json!({ "question": "who", "knowledge_bases": ["a"] });
    let (status, problem) = servers.search(&search).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(problem["reason"], "Loading");
    let (status, _) = servers.get(servers.search, "/livez").await;
    assert_eq!(status, StatusCode::OK);

    servers.service.has_loaded(model(servers.cache.path()));
    let (status, problems) = servers.get(servers.search, "/readyz").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(problems.contains("stores"), "{problems}");
    assert_eq!(servers.search(&search).await.1["reason"], "Connecting");
    servers
        .service
        .has_connected(Box::new(servers.library.clone()));
    let (status, _) = servers.get(servers.search, "/readyz").await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn two_hundred_questions_at_once_are_all_answered() {
    let servers = Servers::ready(Access::closed()).await;
    let questions = (0..200).map(|number| {
        let servers = &servers;
        async move {
            let body = json!({ "queries": ["x".repeat(number)] }).to_string();
            let response = servers.embed_text(body).await;
            assert_eq!(response.status(), StatusCode::OK);
            let embeddings: Value = response.json().await.unwrap();
            assert_eq!(
                embeddings["embeddings"][0][0][0].as_f64(),
                Some(number as f64)
            );
        }
    });
    futures::future::join_all(questions).await;
}
