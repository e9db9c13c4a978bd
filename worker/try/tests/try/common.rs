//! Folders with documents, and the program.

#[path = "../../../rendering/tests/common/documents.rs"]
#[allow(dead_code, reason = "shared with the renderer's tests")]
pub mod documents;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use documents::{Page, pdf};
use serde_json::Value;

/// A file of the test-bed's cache, unless a variable names it.
pub fn artifact(variable: &str, name: &str) -> PathBuf {
    let in_cache = || {
        let cache = std::env::var_os("LAYRA_TESTBED_CACHE").map_or_else(
            || Path::new(&std::env::var_os("HOME").unwrap()).join(".cache/layra-testbed"),
            PathBuf::from,
        );
        cache.join(name)
    };
    let path = std::env::var_os(variable).map_or_else(in_cache, PathBuf::from);
    assert!(
        path.exists(),
        "{} does not exist: run `cargo testbed artifacts`, or set {variable}",
        path.display()
    );
    path
}

/// A folder of documents, and one for what is known of them.
pub struct Scene {
    folder: tempfile::TempDir,
}

impl Scene {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("documents")).unwrap();
        Self { folder }
    }

    pub fn documents(&self) -> PathBuf {
        self.folder.path().join("documents")
    }

    /// Writes a PDF whose pages have these texts.
    pub fn write(&self, name: &str, pages: &[&str]) {
        let pages: Vec<Page> = pages.iter().map(|text| Page::with_text(&[text])).collect();
        let path = self.documents().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, pdf(&pages)).unwrap();
    }

    /// The program with the paths that it needs.
    pub fn program(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_layra-try"));
        command
            .env(
                "LAYRA_PDFIUM",
                artifact("LAYRA_PDFIUM", "pdfium/libpdfium.so"),
            )
            .env("LAYRA_MINILM", artifact("LAYRA_MINILM", "models/minilm"))
            .env("XDG_CACHE_HOME", self.folder.path().join("cache"))
            .env_remove("DISPLAY")
            .env_remove("WAYLAND_DISPLAY");
        command
    }

    /// What the program prints when it is asked.
    pub fn ask(&self, question: &str) -> String {
        let mut command = self.program();
        command.arg(self.documents()).args(["--ask", question]);
        output(&mut command)
    }

    /// The first page of the answer, as `FILE, page PAGE`.
    pub fn first(&self, question: &str) -> String {
        let text = self.ask(question);
        let line = text.lines().find(|line| line.starts_with("  1. "));
        let line = line.unwrap_or_else(|| panic!("no answer in {text}"));
        line.rsplit("  ").next().unwrap().to_owned()
    }

    /// Starts the server.
    pub fn serve(&self) -> Server {
        self.serve_with(&[])
    }

    /// Starts the server with more arguments.
    pub fn serve_with(&self, arguments: &[&str]) -> Server {
        let mut command = self.program();
        command
            .arg(self.documents())
            .args(arguments)
            .args(["--no-open", "--port", "0"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut printed = String::new();
        let port = loop {
            let line = lines
                .next()
                .unwrap_or_else(|| panic!("it ended: {printed}"))
                .unwrap();
            if let Some((_, rest)) = line.split_once("http://localhost:") {
                break rest.split('/').next().unwrap().parse().unwrap();
            }
            printed += &line;
        };
        // Nothing that it prints later may stop it.
        std::thread::spawn(move || lines.for_each(drop));
        Server { child, port }
    }
}

/// The standard output of a command that succeeds.
pub fn output(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(
        output.status.success(),
        "{}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// The program, serving its page. It is killed at the end, as at any other time.
pub struct Server {
    child: Child,
    pub port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// A response: status, headers and body.
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl Server {
    /// Sends a request with these lines after the first one.
    pub fn send(&self, first: &str, lines: &[&str], body: &str) -> Answer {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_mins(2)))
            .unwrap();
        let lines = lines.join("\r\n");
        let length = body.len();
        // A server that refuses a long body closes the connection before all of it is sent.
        let _ = write!(
            stream,
            "{first} HTTP/1.1\r\n{lines}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        let mut response = Vec::new();
        let _ = stream.read_to_end(&mut response);
        let end = response
            .windows(4)
            .position(|part| part == b"\r\n\r\n")
            .unwrap();
        let head = String::from_utf8(response[..end].to_vec())
            .unwrap()
            .to_lowercase();
        let body = response[end + 4..].to_vec();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let body = if head.contains("transfer-encoding: chunked") {
            unchunked(&body)
        } else {
            body
        };
        Answer { status, head, body }
    }

    pub fn get(&self, path: &str) -> Answer {
        self.send(&format!("GET {path}"), &["host: localhost"], "")
    }

    pub fn post(&self, body: &str) -> Answer {
        let lines = ["host: localhost", "content-type: application/json"];
        self.send("POST /v1/search", &lines, body)
    }

    pub fn search(&self, question: &str) -> Value {
        let request = serde_json::json!({"question": question, "heat": true});
        let answer = self.post(&request.to_string());
        assert_eq!(
            answer.status,
            200,
            "{}",
            String::from_utf8_lossy(&answer.body)
        );
        answer.json()
    }

    /// Pages that can be searched, and whether documents are being read.
    pub fn pages(&self) -> (u64, bool) {
        let status = self.get("/v1/status").json();
        let bases = status["knowledge_bases"].as_array().unwrap().iter();
        let pages = bases.map(|base| base["pages"].as_u64().unwrap()).sum();
        (pages, status["indexing"].as_bool().unwrap())
    }

    /// Waits until so many pages can be searched and nothing is read.
    pub fn until_pages(&self, count: u64) {
        eventually(&format!("{count} pages"), || self.pages() == (count, false));
    }
}

/// Waits for a state, without a say in how long it takes.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_mins(3), "not yet: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    loop {
        let end = body.windows(2).position(|part| part == b"\r\n").unwrap();
        let size = std::str::from_utf8(&body[..end]).unwrap();
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        if size == 0 {
            return whole;
        }
        whole.extend_from_slice(&body[end + 2..end + 2 + size]);
        body = &body[end + 4 + size..];
    }
}
