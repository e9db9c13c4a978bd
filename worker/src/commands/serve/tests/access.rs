//! Who may ask from where and how often, and what is shown and logged of documents.

use std::io::Write;

use reqwest::Method;
use serde_json::json;

use super::*;

fn search() -> Value {
    json!({ "question": "who", "knowledge_bases": ["a"] })
}

#[tokio::test]
async fn a_token_that_asks_too_often_is_refused_for_a_while() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let tokens = "- {token: asks-too-often-1234, requestsPerMinute: 2}\n\
                  - {token: another-one-1234567}\n";
    std::fs::write(file.path(), tokens).unwrap();
    let servers = Servers::ready(Access::of_file(file.path().to_owned()).unwrap()).await;
    servers.library.insert("a", &[("f1", "i1", 1.0)]);
    let asked = search();
    let mut statuses = Vec::new();
    for _ in 0..2 {
        let found = servers.search_as(Some("asks-too-often-1234"), &asked);
        statuses.push(found.await.status());
    }
    assert_eq!(statuses, [StatusCode::OK; 2]);
    let refused = servers.search_as(Some("asks-too-often-1234"), &asked);
    let refused = refused.await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    let seconds: u32 = refused.headers()["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=30).contains(&seconds), "{seconds}");
    let kind = &refused.headers()["content-type"];
    assert_eq!(kind, "application/problem+json");
    let problem: Value = refused.json().await.unwrap();
    assert_eq!(problem["reason"], "TooManyRequests");
    let other = servers.search_as(Some("another-one-1234567"), &asked);
    assert_eq!(other.await.status(), StatusCode::OK);
}

#[tokio::test]
async fn pages_of_listed_origins_may_call_the_search_and_nothing_else() {
    let servers = Servers::ready(Access::open()).await;
    servers.library.insert("a", &[("f1", "i1", 1.0)]);
    let send = async |method: Method, path: &str, origin: &str| {
        let url = format!("http://{}{path}", servers.search);
        let request = servers.client.request(method, url).header("origin", origin);
        let request = request.header("access-control-request-method", "POST");
        request.json(&search()).send().await.unwrap()
    };
    let preflight = send(Method::OPTIONS, "/v1/search", ORIGIN).await;
    assert_eq!(preflight.status(), StatusCode::OK);
    let headers = preflight.headers();
    assert_eq!(headers["access-control-allow-origin"], ORIGIN);
    assert_eq!(headers["vary"], "origin");
    let allowed = headers["access-control-allow-headers"].to_str().unwrap();
    assert!(allowed.contains("authorization"), "{allowed}");
    let answer = send(Method::POST, "/v1/search", ORIGIN).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let headers = answer.headers();
    assert_eq!(headers["access-control-allow-origin"], ORIGIN);
    assert!(!headers.contains_key("access-control-allow-credentials"));
    // Errors can be read by the page, too.
    let wrong = send(Method::POST, "/v1/nothing", ORIGIN).await;
    assert_eq!(wrong.status(), StatusCode::NOT_FOUND);
    assert_eq!(wrong.headers()["access-control-allow-origin"], ORIGIN);

    let other = "https://app.example.com.evil.example";
    for (method, path, origin) in [
        (Method::OPTIONS, "/v1/search", other),
        (Method::POST, "/v1/search", other),
        (Method::GET, "/metrics", ORIGIN),
    ] {
        let answer = send(method, path, origin).await;
        let headers = answer.headers();
        assert!(!headers.contains_key("access-control-allow-origin"));
    }
}

#[tokio::test]
async fn a_snippet_has_the_words_that_are_closest_to_the_question() {
    let servers = Servers::ready(Access::open()).await;
    let library = &servers.library;
    library.insert("a", &[("f1", "i1", 2.0), ("f1", "i2", 1.0)]);
    let text = "Bread dough rises. The moon pulls the sea. A chain needs oil.";
    let texts = [("i1", text), ("i9", "Of a page that is gone.")];
    let texts = texts.map(|(image_id, text)| (image_id.to_owned(), text.to_owned()));
    *library.texts.lock().unwrap() = texts.into();
    let search = json!({ "question": "What does the moon do?", "knowledge_bases": ["a"] });
    let (_, answer) = servers.search(&search).await;
    let pages = &answer["pages"];
    let expected = "The moon pulls the sea. A chain needs oil.";
    assert_eq!(pages[0]["snippet"], expected);
    assert!(
        pages[1].get("snippet").is_none(),
        "its text is not kept: {pages}"
    );
    // A page that `files` does not have any more is not shown, and its text neither.
    let remove = |file: &str, image_id: &str| {
        let mut files = library.files.lock().unwrap();
        files.get_mut(file).unwrap().pages.remove(image_id);
    };
    remove("f1", "i1");
    let (_, answer) = servers.search(&search).await;
    assert!(!answer.to_string().contains("moon"), "{answer}");
}

/// Lines of the log.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_log_has_neither_questions_nor_texts_nor_tokens() {
    const SECRET: &str = "unreadable-diagnosis-of-alice";
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_writer(move || writer.clone())
        .finish();
    // For this thread, on which the servers of this test run.
    let _logging = tracing::subscriber::set_default(subscriber);
    let servers = Servers::ready(Access::open()).await;
    let library = &servers.library;
    library.insert("a", &[("f1", "i1", 2.0)]);
    let text = [("i1".to_owned(), SECRET.to_owned())];
    *library.texts.lock().unwrap() = text.into();
    let gone = Failure::transient(Stage::Milvus, Reason::MilvusUnavailable, "refused");
    library.answer("gone", Base::Fails(gone));
    let fails = Failure::permanent(
        Stage::Embed,
        Reason::EmbeddingFailed,
        format!("cannot read {SECRET}"),
    );
    library.answer("fails", Base::Fails(fails));
    let mut statuses = Vec::new();
    for (question, base) in [
        ("who", "a"),
        (SECRET, "a"),
        (SECRET, "nobody"),
        ("who", "gone"),
        ("who", "fails"),
    ] {
        let search = json!({ "question": question, "knowledge_bases": [base] });
        let answer = servers.search_as(Some(SECRET), &search).await;
        statuses.push(answer.status().as_u16());
    }
    assert_eq!(statuses[0], 200);
    assert!(statuses[1..].iter().all(|status| *status >= 400));
    servers
        .embed_text(json!({ "queries": [SECRET] }).to_string())
        .await;
    servers
        .embed_text(format!("{{\"queries\": [{SECRET}]}}"))
        .await;
    let log = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("request refused"), "{log}");
    assert!(!log.contains("diagnosis"), "{log}");
}
