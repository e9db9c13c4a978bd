//! The client against a server that answers as each test says.

use std::sync::Mutex;

use object_store::ClientConfigKey;
use tokio::io::AsyncBufReadExt as _;
use tokio::net::{TcpListener, TcpStream};

use super::client::client_options;
use super::*;
use crate::runtime::failure::Cause;
use crate::runtime::settings::{Authorities, Secret};

/// A request that the server received.
#[derive(Clone, Debug)]
struct Received {
    /// Method and target.
    line: String,
    headers: Vec<String>,
}

impl Received {
    fn header(&self, name: &str) -> Option<&str> {
        let named = |line: &&String| line.to_ascii_lowercase().starts_with(name);
        let line = self.headers.iter().find(named)?;
        Some(line.split_once(':')?.1.trim())
    }

    /// First byte of the requested range.
    fn from(&self) -> usize {
        let range = self
            .header("range:")
            .and_then(|range| range.strip_prefix("bytes="));
        let first = range.and_then(|range| range.split('-').next()?.parse().ok());
        first.unwrap_or(0)
    }
}

type Respond = dyn Fn(&Received, usize) -> Vec<u8> + Send + Sync;

/// An HTTP server that answers each request on a connection of its own, byte for byte as
/// `respond` says. It gets the request and the number of requests before.
async fn server(respond: Box<Respond>) -> (Objects, Arc<Mutex<Vec<Received>>>) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let log = Arc::new(Mutex::new(Vec::new()));
    let received = Arc::clone(&log);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (request, mut stream) = receive(stream).await;
            let number = received.lock().unwrap().len();
            received.lock().unwrap().push(request.clone());
            let answer = respond(&request, number);
            // Slower than one packet, so that the client sees what came before a cut.
            for part in answer.chunks(4096) {
                let _ = stream.write_all(part).await;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let _ = stream.shutdown().await;
        }
    });
    let reference = serde_json::json!({"name": "s", "key": "k"});
    let spec: ObjectStoreSpec = serde_json::from_value(serde_json::json!({
        "endpoint": format!("http://{address}"), "bucket": "b",
        "accessKeySecretRef": reference, "secretKeySecretRef": reference,
    }))
    .unwrap();
    let secrets = Secrets {
        kafka: layra_crds::KafkaSecurity::plaintext(),
        access_key: Secret::new("a"),
        secret_key: Secret::new("s"),
        milvus_token: None,
        mongodb_uri: Secret::new(""),
        redis_uri: None,
        authorities: Authorities::default(),
        model_token: None,
    };
    let objects = Objects::new(&spec, &secrets).unwrap();
    (objects, log)
}

async fn receive(stream: TcpStream) -> (Received, TcpStream) {
    let mut stream = tokio::io::BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        let read = stream.read_line(&mut line).await.unwrap_or(0);
        if read == 0 || line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_owned());
    }
    let mut lines = lines.into_iter();
    let line = lines.next().unwrap_or_default();
    let request = Received {
        line,
        headers: lines.collect(),
    };
    let length = request
        .header("content-length:")
        .and_then(|text| text.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    let _ = stream.read_exact(&mut body).await;
    (request, stream.into_inner())
}

/// An answer with the object's bytes from `from` on, cut after `sent` of them.
fn part(content: &[u8], from: usize, sent: usize, version: &str) -> Vec<u8> {
    let (total, rest) = (content.len(), &content[from..]);
    let status = if from > 0 {
        "206 Partial Content"
    } else {
        "200 OK"
    };
    let range = if from > 0 {
        format!("Content-Range: bytes {from}-{}/{total}\r\n", total - 1)
    } else {
        String::new()
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n{range}\
         ETag: \"{version}\"\r\nLast-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\n\r\n",
        rest.len()
    );
    [head.as_bytes(), &rest[..sent.min(rest.len())]].concat()
}

fn error(status: &str, code: &str) -> Vec<u8> {
    let body = format!("<Error><Code>{code}</Code><Message>m</Message></Error>");
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

fn empty_list() -> Vec<u8> {
    let body = "<ListBucketResult><Name>b</Name><IsTruncated>false</IsTruncated>\
                </ListBucketResult>";
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| u8::try_from(at % 251).unwrap())
        .collect()
}

#[tokio::test]
async fn a_download_that_is_cut_again_and_again_continues_where_it_broke() {
    let content = pattern(1_000_000);
    let sent = content.clone();
    let respond = move |request: &Received, _| part(&sent, request.from(), 150_000, "v1");
    let (objects, log) = server(Box::new(respond)).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut partial = Partial::default();
    let size = objects
        .download(Stage::Fetch, "k.pdf", 1 << 30, file.path(), &mut partial)
        .await
        .unwrap();
    assert_eq!(size, 1_000_000);
    assert_eq!(std::fs::read(file.path()).unwrap(), content);
    let froms: Vec<usize> = log.lock().unwrap().iter().map(Received::from).collect();
    assert!(froms.len() >= 6 && froms.is_sorted(), "{froms:?}");
    assert_eq!(froms.iter().filter(|from| **from == 0).count(), 1);
}

#[tokio::test]
async fn an_attempt_after_an_outage_continues_the_download() {
    let content = pattern(300_000);
    let sent = content.clone();
    let respond = move |request: &Received, number| match number {
        0 => part(&sent, 0, 100_000, "v1"),
        1..=6 => error("503 Service Unavailable", "SlowDown"),
        _ => part(&sent, request.from(), usize::MAX, "v1"),
    };
    let (objects, log) = server(Box::new(respond)).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut partial = Partial::default();
    let mut attempts = 0;
    loop {
        attempts += 1;
        let downloaded = objects
            .download(Stage::Fetch, "k.pdf", 1 << 30, file.path(), &mut partial)
            .await;
        match downloaded {
            Ok(_) => break,
            Err(failure) => assert_eq!(failure.cause, Cause::Server, "{failure}"),
        }
        assert!(attempts < 10);
    }
    assert!(attempts > 1);
    assert_eq!(std::fs::read(file.path()).unwrap(), content);
    let log = log.lock().unwrap();
    assert_eq!(log.last().unwrap().from(), 100_000);
    assert_eq!(log.last().unwrap().header("if-match:"), Some("\"v1\""));
}

#[tokio::test]
async fn an_object_that_changes_during_the_download_is_never_mixed() {
    let (old, new) = (vec![1; 200_000], vec![2; 200_000]);
    let current = new.clone();
    let respond = move |request: &Received, number| match (number, request.from()) {
        (0, _) => part(&old, 0, 100_000, "v1"),
        (_, 0) => part(&current, 0, usize::MAX, "v2"),
        // It does not know `If-Match`.
        (_, from) => part(&current, from, usize::MAX, "v2"),
    };
    let (objects, _) = server(Box::new(respond)).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut partial = Partial::default();
    let mut download = async || {
        let (objects, path) = (&objects, file.path());
        objects
            .download(Stage::Fetch, "k.pdf", 1 << 30, path, &mut partial)
            .await
    };
    if let Err(failure) = download().await {
        assert_eq!(failure.class, Class::Transient);
        download().await.unwrap();
    }
    assert_eq!(std::fs::read(file.path()).unwrap(), new);
}

#[tokio::test]
async fn only_the_version_that_is_wanted_is_downloaded() {
    let content = pattern(1_000);
    let sent = content.clone();
    let respond = move |request: &Received, _| match request.line.as_str() {
        line if line.contains("gone.pdf") => error("404 Not Found", "NoSuchKey"),
        line if line.contains("list-type") => empty_list(),
        _ => part(&sent, request.from(), usize::MAX, "v2"),
    };
    let (objects, _) = server(Box::new(respond)).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let download = async |key: &str, version: &str| {
        let mut partial = Partial::of_version(version);
        let (objects, path) = (&objects, file.path());
        objects
            .download(Stage::Fetch, key, 1 << 30, path, &mut partial)
            .await
    };
    assert_eq!(download("k.pdf", "\"v2\"").await, Ok(1_000));
    for (key, version) in [("k.pdf", "\"v1\""), ("gone.pdf", "\"v2\"")] {
        let failure = download(key, version).await.unwrap_err();
        assert_eq!(failure.class, Class::Deleted, "{failure}");
    }
}

#[tokio::test]
async fn a_key_has_the_version_of_its_entity_tag_or_none() {
    for (lists, class) in [(true, None), (false, Some(Class::Transient))] {
        let respond = move |request: &Received, _| match request.line.as_str() {
            line if line.contains("gone.pdf") => error("404 Not Found", "NoSuchKey"),
            line if line.contains("list-type") && lists => empty_list(),
            line if line.contains("list-type") => error("404 Not Found", "NoSuchBucket"),
            _ => part(&[], 0, 0, "v1"),
        };
        let (objects, _) = server(Box::new(respond)).await;
        let present = objects.version("k.pdf").await.unwrap();
        assert_eq!(present.as_deref(), Some("\"v1\""));
        match objects.version("gone.pdf").await {
            Ok(gone) => assert_eq!((gone, class), (None, None)),
            Err(failure) => assert_eq!(Some(failure.class), class, "a bucket that is gone"),
        }
    }
}

#[tokio::test]
async fn objects_of_somebody_else_are_not_deleted() {
    let respond = |_: &Received, _| {
        let body = "<DeleteResult><Deleted><Key>k</Key></Deleted></DeleteResult>";
        let length = body.len();
        format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}")
            .into_bytes()
    };
    let (objects, log) = server(Box::new(respond)).await;
    let requests = || log.lock().unwrap().len();
    let own = "s3_a_0123456789abcdef01234567.png".to_owned();
    let theirs = vec!["a.pdf".to_owned(), format!("contracts/{own}")];
    let restricted = objects.clone().deleting_only_own("s3");
    restricted.delete_all(theirs.clone()).await.unwrap();
    assert_eq!(requests(), 0);
    restricted.delete_all(vec![own]).await.unwrap();
    assert_eq!(requests(), 1);
    objects.delete_all(theirs).await.unwrap();
    assert_eq!(requests(), 3);
}

#[test]
fn only_downloads_have_no_total_time_limit() {
    let limit = |longest| client_options(longest).get_config_value(&ClientConfigKey::Timeout);
    assert_eq!(limit(None), None);
    assert!(limit(Some(LONGEST_REQUEST)).is_some());
    let silence = client_options(None).get_config_value(&ClientConfigKey::ReadTimeout);
    assert!(silence.is_some());
}

async fn put_answered_with(status: &'static str, code: &'static str, lists: bool) -> Failure {
    let respond = move |request: &Received, _| {
        if request.line.starts_with("GET") && lists {
            empty_list()
        } else {
            error(status, code)
        }
    };
    let (objects, _) = server(Box::new(respond)).await;
    let put = objects.put("k.png", Bytes::from_static(b"x"), "image/png");
    put.await.unwrap_err()
}

#[tokio::test]
async fn a_refused_key_is_distinguished_from_a_server_in_trouble() {
    for code in ["XMinioInvalidObjectName", "KeyTooLongError"] {
        let failure = put_answered_with("400 Bad Request", code, true).await;
        assert_eq!(failure.class, Class::Permanent, "{failure}");
        assert_eq!(failure.reason, Reason::ObjectStoreRefused);
    }
    let (request, server) = (
        (Cause::Request, Reason::ObjectStoreRefused),
        (Cause::Server, Reason::ObjectStoreUnavailable),
    );
    for (status, code, expected) in [
        ("400 Bad Request", "InvalidArgument", request),
        ("403 Forbidden", "InvalidObjectState", request),
        ("400 Bad Request", "RequestTimeout", server),
        ("503 Service Unavailable", "SlowDown", server),
        ("429 Too Many Requests", "x", server),
    ] {
        let failure = put_answered_with(status, code, true).await;
        assert_eq!(failure.class, Class::Transient, "{code}");
        assert_eq!((failure.cause, failure.reason), expected, "{failure}");
        assert!(failure.message.contains(code), "its words: {failure}");
    }
}

#[tokio::test]
async fn a_refused_access_key_is_fatal_only_at_the_start() {
    let failure = put_answered_with("403 Forbidden", "InvalidAccessKeyId", false).await;
    assert_eq!(
        (failure.class, failure.cause),
        (Class::Transient, Cause::Server)
    );
    assert_eq!(failure.reason, Reason::ObjectStoreForbidden);
    for (status, code, reason) in [
        (
            "403 Forbidden",
            "InvalidAccessKeyId",
            Reason::ObjectStoreForbidden,
        ),
        ("404 Not Found", "NoSuchBucket", Reason::BucketNotFound),
    ] {
        let respond = move |_: &Received, _| error(status, code);
        let (objects, _) = server(Box::new(respond)).await;
        let failure = objects.check().await.unwrap_err();
        assert_eq!((failure.class, failure.reason), (Class::Fatal, reason));
        let put = objects.put("k.png", Bytes::from_static(b"x"), "image/png");
        assert_eq!(put.await.unwrap_err().class, Class::Transient);
    }
}

#[tokio::test]
async fn a_key_that_no_object_can_have_is_deleted_already() {
    let deleted = "<DeleteResult><Error><Key>k</Key><Code>KeyTooLongError</Code>\
                   <Message>m</Message></Error></DeleteResult>";
    let respond = move |_: &Received, _| {
        let length = deleted.len();
        format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{deleted}")
            .into_bytes()
    };
    let (objects, _) = server(Box::new(respond)).await;
    let keys = ["k", "a//b", "a/../b", "/k", "k/"].map(str::to_owned);
    objects.delete_all(keys.to_vec()).await.unwrap();
}

#[test]
fn a_key_is_exact_or_refused() {
    for key in ["a", "a/b.pdf", "Übersicht 1.pdf", "a b/c%20d"] {
        assert_eq!(parse_key(Stage::Fetch, key).unwrap().as_ref(), key);
    }
    for key in ["", "/", "/a", "a/", "a//b", "./a", "a/../b", "a/."] {
        let failure = parse_key(Stage::Fetch, key).map(|path| path.to_string());
        assert!(failure.is_err() || key.is_empty(), "{key}: {failure:?}");
    }
}
