//! Clients that are slow on purpose, and very many parts of a body.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

/// None of these tests measures time: this only ends one that hangs.
const LONG: Duration = Duration::from_mins(2);

async fn sent(address: SocketAddr, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

/// What the server sends until it closes the connection.
async fn answer(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    // A connection that is reset is closed, too.
    let _ = tokio::time::timeout(LONG, read).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn the_head_of_a_request_has_to_arrive_in_time() {
    let servers = Servers::ready(Access::closed()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (router, stop) = (
        layra::router(Arc::clone(&servers.service)),
        CancellationToken::new(),
    );
    let until = stop.clone();
    tokio::spawn(async move {
        let head = Duration::from_millis(300);
        listener::serve_within(listener, router, &until, head).await;
    });
    let mut slow = Vec::new();
    for _ in 0..50 {
        slow.push(sent(address, "POST /embed_text HTTP/1.1\r\nhost: x\r\nx").await);
    }
    for stream in &mut slow {
        let answer = answer(stream).await;
        assert!(!answer.contains("200"), "{answer}");
    }
    stop.cancel();
}

#[tokio::test]
async fn a_body_that_stops_arriving_is_refused() {
    let servers = Servers::ready(Access::open()).await;
    let head = "host: x\r\nconnection: close\r\ncontent-length: 100\r\n\r\n{";
    for (address, path) in [
        (servers.search, "/v1/search"),
        (servers.model, "/embed_text"),
    ] {
        let request = format!("POST {path} HTTP/1.1\r\n{head}");
        let mut stream = sent(address, &request).await;
        let answer = answer(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
        let reason = "the body did not arrive in time";
        assert!(answer.contains(reason), "{answer}");
    }
}

/// The first image cannot be opened: the others are not looked at.
#[tokio::test]
async fn ten_thousand_images_are_refused() {
    let servers = Servers::ready(Access::closed()).await;
    let part =
        "--b\r\ncontent-disposition: form-data; name=\"images\"; filename=\"a.png\"\r\n\r\nx\r\n";
    let body = part.repeat(10_000) + "--b--\r\n";
    let url = format!("http://{}/embed_image", servers.model);
    let request = servers.client.post(url).body(body);
    let request = request.header("content-type", "multipart/form-data; boundary=b");
    let response = request.timeout(LONG).send().await.unwrap();
    assert!(response.status().as_u16() >= 400, "{}", response.status());
    let body: Value = response.json().await.unwrap();
    assert!(!body["detail"].is_null(), "{body}");
}

#[tokio::test]
async fn when_it_is_full_clients_are_told_to_come_back() {
    let servers = Servers::ready(Access::open()).await;
    servers.library.insert("a", &[("f1", "i1", 1.0)]);
    let service = &servers.service;
    let mut entered = Vec::new();
    entered.extend(std::iter::from_fn(|| service.enter_text().ok()));
    entered.extend(std::iter::from_fn(|| service.enter_search().ok()));
    let texts = r#"{"queries": ["who"]}"#;
    let search = serde_json::json!({ "question": "who", "knowledge_bases": ["a"] });
    for response in [
        servers.embed_text(texts).await,
        servers.search_as(None, &search).await,
    ] {
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(response.headers().contains_key("retry-after"));
    }
    let (_, problem) = servers.search(&search).await;
    assert_eq!(problem["reason"], "Busy");
    drop(entered);
    assert_eq!(servers.embed_text(texts).await.status(), StatusCode::OK);
    assert_eq!(servers.search(&search).await.0, StatusCode::OK);
}
