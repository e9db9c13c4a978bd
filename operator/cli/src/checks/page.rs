//! A list of checks as a page that needs nothing else. Pure.

use std::fmt::Write as _;

use super::{Report, Verdict};

const STYLE: &str = "\
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; }
th, td { border-bottom: 1px solid #ccc; padding: .4rem .6rem; text-align: left; vertical-align: top; }
.pass { color: #176c2c; } .fail { color: #b00020; font-weight: bold; } .open { color: #7a5200; }
";

pub(super) fn of(report: &Report) -> String {
    let Report {
        command,
        namespace,
        pipeline,
        time,
        ..
    } = report;
    let title = escape(&format!("{command} {namespace}/{pipeline}"));
    let summary = escape(&report.summary());
    let mut rows = String::new();
    for check in &report.checks {
        let class = match check.verdict {
            Verdict::Pass => "pass",
            Verdict::Fail => "fail",
            Verdict::Measured => "measured",
            Verdict::NotChecked => "open",
        };
        let _ = writeln!(
            rows,
            "<tr><td class=\"{class}\">{}</td><th scope=\"row\">{}</th><td>{}</td><td>{}</td>\
             <td>{}</td></tr>",
            check.verdict.word(),
            escape(check.name),
            escape(&check.measured),
            escape(&check.expected),
            escape(check.to_do.as_deref().unwrap_or_default()),
        );
    }
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <h1>{title}</h1>\n<p>{}. {summary}</p>\n<table>\n<thead><tr><th scope=\"col\">Verdict</th>\
         <th scope=\"col\">Check</th><th scope=\"col\">Measured</th><th scope=\"col\">Expected</th>\
         <th scope=\"col\">What to do</th></tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n</main>\n\
         </body>\n</html>\n",
        escape(time)
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
