//! Searches and their refusals.

use serde_json::json;

use super::*;
use crate::stores::archives::archived;

fn ids(answer: &Value) -> Vec<&str> {
    let pages = answer["pages"].as_array().unwrap().iter();
    pages
        .map(|page| page["image_id"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn pages_of_several_knowledge_bases_come_best_first() {
    let servers = Servers::ready(Access::open()).await;
    let library = &servers.library;
    library.insert("a", &[("f1", "i1", 3.0), ("f1", "i2", 1.0)]);
    library.insert("b", &[("f2", "i3", 2.0)]);
    let search = json!({ "question": "who", "knowledge_bases": ["b", "a", "a"], "explain": true });
    let (status, answer) = servers.search(&search).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(ids(&answer), ["i1", "i3", "i2"]);
    let first = &answer["pages"][0];
    let expected = json!({
        "knowledge_base": "a", "file_id": "f1", "file": "f1.pdf", "page": 1, "image_id": "i1",
        "score": 3.0, "image_url": "http://images/i1", "file_url": "http://images/",
    });
    assert_eq!(first, &expected);
    let explain = &answer["explain"];
    assert_eq!(
        (&explain["question_vectors"], &explain["left_out"]),
        (&1.into(), &0.into())
    );
    assert_eq!(explain["knowledge_bases"][0]["compared_vectors"], 14);

    let some = json!({
        "question": "who", "knowledge_bases": ["a", "b"], "threshold": 1.5, "top": 1,
    });
    let (_, answer) = servers.search(&some).await;
    assert_eq!(ids(&answer), ["i1"]);
    assert!(answer.get("explain").is_none());
    let of_file = json!({ "question": "who", "knowledge_bases": ["a"], "files": ["f9", "f1"] });
    servers.search(&of_file).await;
    let asked = library.asked.lock().unwrap().last().unwrap().clone();
    assert_eq!(asked, ["f1", "f9"]);
}

/// LAYRA deletes files without a word to anybody, and names of collections are not unique.
#[tokio::test]
async fn a_page_is_shown_only_while_its_knowledge_base_has_it() {
    let servers = Servers::ready(Access::open()).await;
    let library = &servers.library;
    library.insert(
        "a-1",
        &[("f1", "i1", 3.0), ("f2", "i2", 2.0), ("f3", "i3", 1.0)],
    );
    let edit = |file: &str, edit: fn(&mut ShownFile)| {
        edit(library.files.lock().unwrap().get_mut(file).unwrap());
    };
    edit("f2", |file| file.knowledge_base = "a_1".into());
    let search = json!({
        "question": "who", "knowledge_bases": ["a-1"], "top": 1, "explain": true,
    });
    let (_, answer) = servers.search(&search).await;
    assert_eq!(ids(&answer), ["i1"]);
    assert_eq!(answer["explain"]["knowledge_bases"][0]["cached"], false);
    // From the cache, and checked again.
    edit("f1", |file| file.pages.clear());
    let (_, answer) = servers.search(&search).await;
    assert_eq!(ids(&answer), ["i3"]);
    assert_eq!(answer["explain"]["left_out"], 2);
    assert_eq!(answer["explain"]["knowledge_bases"][0]["cached"], true);
    library.files.lock().unwrap().clear();
    let (status, answer) = servers.search(&search).await;
    assert_eq!((status, ids(&answer).len()), (StatusCode::OK, 0));
    assert_eq!(library.asked.lock().unwrap().len(), 1, "one ranking");
    let (_, metrics) = servers.get(servers.search, "/metrics").await;
    let hits = "ingestion_query_cache_total{result=\"hit\"} 2";
    assert!(metrics.contains(hits), "{metrics}");
}

#[tokio::test]
async fn a_token_is_needed_and_tells_nothing_about_other_knowledge_bases() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let tokens = "- {token: only-for-alice-1234, knowledgeBases: [alice, gone]}\n";
    std::fs::write(file.path(), tokens).unwrap();
    let access = Access::of_file(file.path().to_owned()).unwrap();
    let servers = Servers::ready(access).await;
    servers.library.insert("alice", &[("f1", "i1", 1.0)]);
    servers.library.insert("bob", &[("f2", "i2", 1.0)]);
    let search = |base: &str| json!({ "question": "who", "knowledge_bases": [base] });
    for token in [None, Some("another-token-12345")] {
        let refused = servers.search_as(token, &search("alice")).await;
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(refused.headers()["www-authenticate"], "Bearer");
    }
    let token = Some("only-for-alice-1234");
    let found = servers.search_as(token, &search("alice")).await;
    assert_eq!(found.status(), StatusCode::OK);
    let mut answers = Vec::new();
    for base in ["bob", "nobody", "gone"] {
        let refused = servers.search_as(token, &search(base)).await;
        assert_eq!(refused.status(), StatusCode::NOT_FOUND);
        answers.push(refused.text().await.unwrap());
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    // Nobody may search without a file of tokens.
    let closed = Servers::ready(Access::closed()).await;
    let refused = closed.search_as(token, &search("alice")).await;
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_wrong_search_is_refused_with_the_field() {
    let servers = Servers::ready(Access::open()).await;
    servers.library.insert("a", &[("f1", "i1", 1.0)]);
    for (change, field) in [
        (json!({ "question": " \n" }), "question"),
        (json!({ "question": "x".repeat(100_000) }), "question"),
        (json!({ "question": null }), "question"),
        (json!({ "image": "aGFsbG8=" }), "question"),
        (json!({ "question": null, "image": "%" }), "image"),
        (json!({ "knowledge_bases": [] }), "knowledge_bases"),
        (
            json!({ "knowledge_bases": vec!["a"; 40] }),
            "knowledge_bases",
        ),
        (json!({ "top": 0 }), "top"),
        (json!({ "top": 1_000 }), "top"),
        (json!({ "candidates": 100_000 }), "candidates"),
        (json!({ "files": vec!["f"; 2_000] }), "files"),
    ] {
        let mut search = json!({ "question": "who", "knowledge_bases": ["a"] });
        let fields = search.as_object_mut().unwrap();
        fields.extend(change.as_object().unwrap().clone());
        let response = servers.search_as(None, &search).await;
        assert_eq!(
            response.status(),
            StatusCode::UNPROCESSABLE_ENTITY,
            "{field}"
        );
        let kind = &response.headers()["content-type"];
        assert_eq!(kind, "application/problem+json");
        let problem: Value = response.json().await.unwrap();
        assert_eq!(problem["field"], field, "{problem}");
        assert_eq!(
            (&problem["status"], &problem["type"]),
            (&422.into(), &"about:blank".into())
        );
    }
    let unknown = json!({ "question": "who", "knowledge_bases": ["a"], "topk": 3 });
    let (status, problem) = servers.search(&unknown).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(
        problem["detail"].as_str().unwrap().contains("topk"),
        "{problem}"
    );
    let (status, problem) = servers.get(servers.search, "/v2").await;
    assert!(status == StatusCode::NOT_FOUND && problem.contains("about:blank"));
}

#[tokio::test]
async fn a_fault_of_a_store_has_its_own_answer() {
    let servers = Servers::ready(Access::open()).await;
    let gone = Failure::transient(Stage::Milvus, Reason::MilvusUnavailable, "10.0.0.1 refused");
    let width = Failure::permanent(Stage::Milvus, Reason::DimensionMismatch, "width 128");
    let model = Failure::permanent(Stage::Milvus, Reason::ModelMismatch, "another model");
    for (failure, status, reason) in [
        (gone, 503, "MilvusUnavailable"),
        (width, 409, "DimensionMismatch"),
        (model, 409, "ModelMismatch"),
        (archived("a"), 409, "KnowledgeBaseArchived"),
    ] {
        servers.library.answer("a", Base::Fails(failure));
        let search = json!({ "question": "who", "knowledge_bases": ["a"] });
        let response = servers.search_as(None, &search).await;
        assert_eq!(response.status().as_u16(), status);
        assert_eq!(
            response.headers().contains_key("retry-after"),
            status == 503
        );
        let problem: Value = response.json().await.unwrap();
        assert_eq!(problem["reason"], reason);
        assert!(!problem.to_string().contains("10.0.0.1"));
    }
    // A failure is not remembered.
    servers.library.insert("a", &[("f1", "i1", 1.0)]);
    let search = json!({ "question": "who", "knowledge_bases": ["a"] });
    assert_eq!(servers.search(&search).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_search() {
    let servers = Servers::ready(Access::open()).await;
    servers.library.answer("a", Base::Hangs);
    let search = json!({ "question": "who", "knowledge_bases": ["a"] });
    let request = servers
        .client
        .post(format!("http://{}/v1/search", servers.search))
        .json(&search)
        .timeout(Duration::from_millis(300));
    assert!(request.send().await.unwrap_err().is_timeout());
    let left = "ingestion_query_requests_total{path=\"/v1/search\",status=\"499\"} 1";
    loop {
        let (_, metrics) = servers.get(servers.search, "/metrics").await;
        if metrics.contains(left) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn the_operator_sees_the_requests_in_progress() {
    let servers = Servers::ready(Access::open()).await;
    servers.library.answer("a", Base::Hangs);
    let counted = async || {
        let (status, counts) = servers.get(servers.search, "/counts").await;
        assert_eq!(status, StatusCode::OK);
        serde_json::from_str::<Value>(&counts).unwrap()["inFlight"].clone()
    };
    assert_eq!(counted().await, 0);
    let search = json!({ "question": "who", "knowledge_bases": ["a"] });
    let seen = async {
        while counted().await != 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        answer = servers.search_as(None, &search) => panic!("answered: {}", answer.status()),
        () = seen => {}
    }
}
