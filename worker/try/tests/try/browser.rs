//! The page in a real browser: Debian's chromium, driven over its debugging pipe. Without it the
//! test fails.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::common::{Scene, artifact, eventually};

/// A browser with one page.
struct Browser {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    session: Option<String>,
    calls: u64,
    /// What it has reported of its own accord.
    events: Vec<Value>,
    _profile: tempfile::TempDir,
}

impl Browser {
    fn open() -> Self {
        let profile = tempfile::tempdir().unwrap();
        // The pipe is on the descriptors 3 and 4.
        let line = format!(
            "exec chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage \
             --no-first-run --disable-extensions --remote-debugging-pipe --window-size=1200,900 \
             --user-data-dir='{}' about:blank 3<&0 4>&1 0</dev/null 1>&2",
            profile.path().display()
        );
        let mut command = Command::new("bash");
        command
            .args(["-c", &line])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut browser = Self {
            input: child.stdin.take().unwrap(),
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
            session: None,
            calls: 0,
            events: Vec::new(),
            _profile: profile,
        };
        let page = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let attach = json!({"targetId": page["targetId"], "flatten": true});
        let session = browser.call("Target.attachToTarget", attach);
        browser.session = Some(session["sessionId"].as_str().unwrap().to_owned());
        for domain in ["Page", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    /// Calls a method of the browser and waits for its result.
    fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.calls += 1;
        let mut message = json!({"id": self.calls, "method": method});
        message["params"] = parameters;
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        write!(self.input, "{message}\0").unwrap();
        loop {
            let mut answer = Vec::new();
            self.output.read_until(0, &mut answer).unwrap();
            assert!(
                !answer.is_empty(),
                "chromium ended: is it installed (apt-get install chromium)?"
            );
            let mut answer: Value = serde_json::from_slice(&answer[..answer.len() - 1]).unwrap();
            if answer["id"] != self.calls {
                self.events.push(answer);
                continue;
            }
            assert!(answer.get("error").is_none(), "{method}: {answer}");
            return answer["result"].take();
        }
    }

    /// The value of an expression in the page.
    fn value(&mut self, expression: &str) -> Value {
        let parameters = json!({
            "expression": expression, "returnByValue": true, "awaitPromise": true,
        });
        let result = self.call("Runtime.evaluate", parameters);
        assert!(
            result.get("exceptionDetails").is_none(),
            "{expression}: {result}"
        );
        result["result"]["value"].clone()
    }

    fn until(&mut self, expression: &str) {
        eventually(expression, || self.value(expression) == true);
    }

    /// Presses a key.
    fn press(&mut self, key: &str, code: u32) {
        let text = if key == "Enter" { "\r" } else { "" };
        for kind in ["keyDown", "keyUp"] {
            let parameters = json!({
                "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code,
                "text": if kind == "keyDown" { text } else { "" },
            });
            self.call("Input.dispatchKeyEvent", parameters);
        }
    }

    /// Errors of scripts, of the policy and of requests.
    fn errors(&self) -> Vec<&Value> {
        let is_error = |event: &&Value| {
            let parameters = &event["params"];
            match event["method"].as_str() {
                Some("Runtime.exceptionThrown") => true,
                Some("Runtime.consoleAPICalled") => parameters["type"] == "error",
                Some("Log.entryAdded") => parameters["entry"]["level"] == "error",
                _ => false,
            }
        };
        self.events.iter().filter(is_error).collect()
    }

    /// What axe-core calls a serious or critical obstacle for people who cannot see or point.
    fn obstacles(&mut self) -> Vec<String> {
        let axe = artifact("LAYRA_AXE", "axe/axe.min.js");
        let axe = std::fs::read_to_string(axe).unwrap();
        self.value(&format!("{axe}; true"));
        let found = self.value(
            "axe.run({resultTypes: ['violations']}).then((found) => found.violations \
             .filter((one) => ['serious', 'critical'].includes(one.impact)) \
             .map((one) => `${one.id}: ${one.nodes.map((node) => node.html).join(' ')}`))",
        );
        serde_json::from_value(found).unwrap()
    }

    /// The page as it is seen, as a PNG.
    fn picture(&mut self) -> Vec<u8> {
        let picture = self.call("Page.captureScreenshot", json!({"format": "png"}));
        let picture = picture["data"].as_str().unwrap();
        base64::Engine::decode(&base64::prelude::BASE64_STANDARD, picture).unwrap()
    }

    /// Roles of what can be used or seen, but has no name for a screen reader.
    fn unnamed(&mut self) -> Vec<String> {
        let tree = self.call("Accessibility.getFullAXTree", json!({}));
        let nodes = tree["nodes"].as_array().unwrap().iter();
        let unnamed = nodes.filter(|node| {
            let role = node["role"]["value"].as_str().unwrap_or_default();
            let roles = [
                "button",
                "link",
                "searchbox",
                "combobox",
                "checkbox",
                "image",
                "dialog",
            ];
            let name = node["name"]["value"].as_str().unwrap_or_default();
            node["ignored"] == false && roles.contains(&role) && name.trim().is_empty()
        });
        unnamed
            .map(|node| node["role"]["value"].to_string())
            .collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
fn a_question_is_typed_and_its_pages_are_looked_at() {
    let scene = Scene::new();
    let hostile = "<img src=x onerror=document.title=1>.pdf";
    scene.write(
        "manuals/car.pdf",
        &["An introduction.", "Change the engine oil every year."],
    );
    scene.write(
        hostile,
        &["Oil the <b>hinges</b> of the <script>door</script> in spring."],
    );
    let server = scene.serve();
    server.until_pages(3);
    let mut browser = Browser::open();
    let address = format!("http://localhost:{}/", server.port);
    browser.call("Page.navigate", json!({"url": address}));
    browser.until("document.activeElement?.id === 'question'");

    // Typed, and sent with the keyboard.
    browser.call("Input.insertText", json!({"text": "oil for the motor"}));
    browser.press("Enter", 13);
    browser.until("document.querySelectorAll('#pages > li').length === 3");
    browser.until("document.images[0].complete && document.images[0].naturalWidth > 0");
    let titles = browser.value("[...document.querySelectorAll('h3')].map((h) => h.textContent)");
    assert_eq!(titles[0], "manuals/car.pdf, page 2");
    assert!(
        titles.to_string().contains("<img src=x"),
        "names are text: {titles}"
    );
    assert_eq!(
        browser.value("document.querySelectorAll('li b, li script').length"),
        0
    );
    let painted = "(() => { const c = document.querySelector('canvas'); \
        return c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some((v) => v); })()";
    assert_eq!(browser.value(painted), true, "heat on the best page");
    assert_eq!(browser.unnamed(), Vec::<String>::new());
    assert_eq!(browser.obstacles(), Vec::<String>::new());

    // Enlarged and left with the keyboard.
    browser.value("document.querySelector('.open').focus()");
    browser.press("Enter", 13);
    browser.until("document.getElementById('large').open");
    browser.press("ArrowRight", 39);
    browser.until("document.getElementById('large-title').textContent.startsWith('2 of 3')");
    assert_eq!(browser.unnamed(), Vec::<String>::new());
    let original = browser.value("document.getElementById('large-original').href");
    assert!(
        original.as_str().unwrap().contains("/original#page="),
        "{original}"
    );
    browser.press("Escape", 27);
    browser.until("!document.getElementById('large').open");
    browser.until("document.activeElement.className === 'open'");

    // Shared: the same address shows the same answer, of one knowledge base.
    let shared = format!("{address}?q=oil&in=manuals");
    browser.call("Page.navigate", json!({"url": shared}));
    browser.until("document.querySelectorAll('#pages > li').length === 2");
    assert_eq!(
        browser.value("document.getElementById('base').value"),
        "manuals"
    );

    // On a phone, in the dark.
    let phone = json!({"width": 360, "height": 640, "deviceScaleFactor": 2, "mobile": true});
    browser.call("Emulation.setDeviceMetricsOverride", phone);
    let ground = "getComputedStyle(document.body).backgroundColor";
    let light = browser.value(ground);
    let dark = json!({"features": [{"name": "prefers-color-scheme", "value": "dark"}]});
    browser.call("Emulation.setEmulatedMedia", dark);
    assert_ne!(browser.value(ground), light);
    browser.until("document.documentElement.scrollWidth <= 360");
    assert_eq!(browser.obstacles(), Vec::<String>::new());
    assert!(browser.errors().is_empty(), "{:?}", browser.errors());
}

/// The picture in the README, of a real document. `UPDATE_PICTURES=1` writes it.
#[test]
fn a_real_document_is_shown() {
    let scene = Scene::new();
    let document = artifact("LAYRA_PDFS", "pdfs").join("fhs-3.0.pdf");
    std::fs::copy(document, scene.documents().join("fhs-3.0.pdf")).unwrap();
    let server = scene.serve();
    eventually("the document", || {
        let (pages, is_indexing) = server.pages();
        pages > 10 && !is_indexing
    });
    let mut browser = Browser::open();
    let question = "Where+do+programs+keep+temporary+files";
    let address = format!("http://localhost:{}/?q={question}", server.port);
    browser.call("Page.navigate", json!({"url": address}));
    browser.until("document.querySelectorAll('#pages > li').length > 1");
    browser.until("[...document.images].every((it) => it.complete && it.naturalWidth > 0)");
    assert_eq!(browser.obstacles(), Vec::<String>::new());
    let picture = browser.picture();
    assert!(picture.starts_with(b"\x89PNG"));
    if std::env::var_os("UPDATE_PICTURES").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/pictures/try.png");
        std::fs::create_dir_all(std::path::Path::new(path).parent().unwrap()).unwrap();
        std::fs::write(path, picture).unwrap();
    }
    assert!(browser.errors().is_empty(), "{:?}", browser.errors());
}
