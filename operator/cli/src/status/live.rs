//! The live view: the table in place on a terminal, else a line for each pipeline that has changed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use jiff::Timestamp;

use super::row::Row;
use super::{StatusArgs, read, view};
use crate::cluster::Cluster;
use crate::run::signals::Signals;
use crate::style::{Colour, Style, clean, window};

const INTERVAL: Duration = Duration::from_secs(2);
/// The alternate screen, which leaves what was on the terminal as it was; without a cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

pub(super) async fn run(
    cluster: &Cluster,
    args: &StatusArgs,
    rows: Vec<Row>,
    style: Style,
) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::listen()?;
    let mut shown = Shown::new(args, style);
    let mut read_now = Ok(rows);
    let code = loop {
        if !shown.show(&read_now) {
            break ExitCode::SUCCESS;
        }
        tokio::select! {
            biased;
            code = signals.next() => break ExitCode::from(code),
            () = tokio::time::sleep(INTERVAL) => {}
        }
        // A server that does not answer must not hold up Ctrl-C.
        read_now = tokio::select! {
            biased;
            code = signals.next() => break ExitCode::from(code),
            rows = read(cluster, args) => rows,
        };
    };
    Ok(code)
}

/// What is on the terminal, or was written.
struct Shown {
    view: view::View,
    style: Style,
    last: Vec<Row>,
    /// The last line of each pipeline.
    lines: BTreeMap<(String, String), String>,
    last_error: Option<String>,
}

impl Shown {
    fn new(args: &StatusArgs, style: Style) -> Self {
        if style.window.is_some() {
            let _ = write(ENTER);
        }
        Self {
            view: args.view(),
            style,
            last: Vec::new(),
            lines: BTreeMap::new(),
            last_error: None,
        }
    }

    /// Shows what was read. False: nobody reads any more.
    fn show(&mut self, read: &anyhow::Result<Vec<Row>>) -> bool {
        let error = read.as_ref().err().map(|error| format!("{error:#}"));
        if let Ok(rows) = read {
            rows.clone_into(&mut self.last);
        }
        let text = if self.style.window.is_some() {
            let size = window();
            self.style.window = Some(size);
            self.screen(error.as_deref(), size, Timestamp::now())
        } else {
            if error != self.last_error
                && let Some(error) = &error
            {
                eprintln!("{error}; trying again");
            }
            self.last_error = error;
            self.changes(Timestamp::now())
        };
        write(&text)
    }

    /// The whole screen, drawn over the one before.
    fn screen(&self, error: Option<&str>, size: (usize, usize), now: Timestamp) -> String {
        let (columns, height) = size;
        let time = now.strftime("%H:%M:%S UTC");
        let title = format!("{time}  every {} s, Ctrl-C to end", INTERVAL.as_secs());
        let mut lines = vec![self.style.paint(Some(Colour::Dim), &title), String::new()];
        if let Some(error) = error {
            let text = format!("not up to date: {}", clean(error));
            lines.push(self.style.paint(Some(Colour::Red), &text));
        }
        if self.last.is_empty() {
            lines.push("There are no pipelines.".to_owned());
        } else {
            let table = view::lines(&self.last, self.view, self.style);
            lines.extend(table.iter().flat_map(|lines| {
                lines.lines().map(str::to_owned).chain(
                    // An empty line has no lines.
                    lines.is_empty().then(String::new),
                )
            }));
        }
        let room = height.saturating_sub(1).max(1);
        if lines.len() > room {
            let left_out = lines.len() - room + 1;
            lines.truncate(room - 1);
            lines.push(format!("... {left_out} more lines: enlarge the window"));
        }
        let mut text = "\x1b[H".to_owned();
        for line in lines {
            text.push_str(&cut(&line, columns));
            text.push_str("\x1b[K\n");
        }
        text + "\x1b[J"
    }

    /// A line for each pipeline that differs from what was written last.
    fn changes(&mut self, now: Timestamp) -> String {
        let mut text = String::new();
        let time = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let mut lines = BTreeMap::new();
        for row in &self.last {
            let key = (row.namespace.clone(), row.name.clone());
            let line = view::line(row);
            if self.lines.get(&key) != Some(&line) {
                let _ = writeln!(text, "{time} {line}");
            }
            lines.insert(key, line);
        }
        for (namespace, name) in self.lines.keys() {
            if !lines.contains_key(&(namespace.clone(), name.clone())) {
                let _ = writeln!(text, "{time} {namespace}/{name}: deleted");
            }
        }
        self.lines = lines;
        text
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if self.style.window.is_some() {
            let _ = write(LEAVE);
        }
    }
}

/// False: nobody reads any more.
fn write(text: &str) -> bool {
    let mut output = std::io::stdout().lock();
    output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush())
        .is_ok()
}

/// The first columns of a line: a wrapped line would push others off the screen.
fn cut(line: &str, columns: usize) -> String {
    let mut text = String::new();
    let mut length = 0;
    let mut in_colour = false;
    for letter in line.chars() {
        if letter == '\x1b' {
            in_colour = true;
        }
        if in_colour {
            text.push(letter);
            in_colour = letter != 'm';
        } else if length < columns {
            text.push(letter);
            length += 1;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(style: Style) -> Shown {
        Shown {
            view: view::View::default(),
            style,
            last: Vec::new(),
            lines: BTreeMap::new(),
            last_error: None,
        }
    }

    #[test]
    fn a_line_is_cut_where_the_window_ends_and_its_colours_are_closed() {
        assert_eq!(cut("\x1b[31mabcdef\x1b[0m", 3), "\x1b[31mabc\x1b[0m");
        assert_eq!(cut("ab", 3), "ab");
    }

    #[test]
    fn a_screen_is_drawn_over_the_one_before_and_fits_into_the_window() {
        let mut shown = shown(Style::default());
        let time: Timestamp = "2026-11-28T02:13:04Z".parse().unwrap();
        let screen = shown.screen(Some("no answer\x1b[2J"), (40, 24), time);
        assert!(
            screen.starts_with("\x1b[H02:13:04 UTC  every 2 s"),
            "{screen:?}"
        );
        assert!(
            screen.contains("not up to date: no answer [2J\x1b[K\n"),
            "{screen:?}"
        );
        assert!(screen.ends_with("\x1b[J"), "{screen:?}");
        let small = shown.screen(None, (40, 3), time);
        assert_eq!(small.matches('\n').count(), 2, "{small:?}");
        assert!(small.contains("... 2 more lines"), "{small:?}");
        shown.style.window = None;
    }

    #[test]
    fn a_log_has_only_changes() {
        let mut shown = shown(Style::default());
        let time: Timestamp = "2026-11-28T02:13:04Z".parse().unwrap();
        let key = ("rag".to_owned(), "contracts".to_owned());
        shown.lines.insert(key, "gone".to_owned());
        let gone = "2026-11-28T02:13:04Z rag/contracts: deleted\n";
        assert_eq!(shown.changes(time), gone);
        assert_eq!(shown.changes(time), "");
    }
}
