//! The `advise` command: compares the settings of the servers with what the tuning guide asks.
//!
//! It reads, and changes nothing. Each server is one file: what it says, then pure rules. A server,
//! a command or a permission that is missing is a finding, too.

mod finding;
mod kafka;
mod layra;
mod milvus;
mod mongodb;
mod redis;

use std::io::Write;
use std::time::Duration;

use layra_crds::{Advice, Finding};
use reqwest::Url;

use crate::cli::Output;
use crate::runtime::settings::Settings;
use finding::{Answer, Server};

/// Longest wait for the answer to one request.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for one server.
const PATIENCE: Duration = Duration::from_mins(1);

/// Asks all servers at the same time. `milvus_metrics`: where Milvus serves its metrics.
pub(crate) async fn advise(settings: &Settings, milvus_metrics: Option<&Url>) -> Advice {
    let (kafka, mongodb, milvus, redis) = tokio::join!(
        patiently(kafka::read(settings)),
        patiently(mongodb::read(settings)),
        patiently(milvus::read(settings, milvus_metrics)),
        patiently(async { redis::read(settings).await.transpose() }),
    );
    let source = &settings.config.source.kafka;
    let redis = redis.map(|facts| match facts {
        Some(facts) => redis::findings(&facts),
        None => vec![Server::new("Redis").unread(
            "connection",
            "stores.redis",
            "the pipeline has no Redis: LAYRA shows no progress",
        )],
    });
    let findings = [
        of("Kafka", kafka.map(|facts| kafka::findings(&facts, source))),
        of("MongoDB", mongodb.map(|facts| mongodb::findings(&facts))),
        of("Milvus", milvus.map(|facts| milvus::findings(&facts))),
        of("Redis", redis),
        layra::findings(),
    ];
    Advice {
        findings: findings.concat(),
    }
}

async fn patiently<T>(read: impl Future<Output = Answer<T>>) -> Answer<T> {
    match tokio::time::timeout(PATIENCE, read).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

/// The findings about a server, or that it was not reached.
fn of(server: &str, findings: Answer<Vec<Finding>>) -> Vec<Finding> {
    findings.unwrap_or_else(|why| vec![Server::new(server).unread("connection", "answers", why)])
}

/// Writes a table, or JSON in one line: the log of a Job has other lines, too.
pub(crate) fn write(advice: &Advice, output: Output, out: &mut impl Write) -> std::io::Result<()> {
    match output {
        Output::Table => write!(out, "{advice}"),
        Output::Json => {
            serde_json::to_writer(&mut *out, advice)?;
            out.write_all(b"\n")
        }
    }
}

#[cfg(test)]
mod tests {
    use layra_crds::Verdict;

    use super::*;

    #[test]
    fn a_server_that_does_not_answer_is_one_finding() {
        let findings = of("MongoDB", Err("connection refused".to_owned()));
        let [finding] = findings.as_slice() else {
            panic!("{findings:?}");
        };
        assert_eq!(finding.verdict, Verdict::Unread);
        assert_eq!(
            (finding.server.as_str(), finding.found.as_str()),
            ("MongoDB", "connection refused")
        );
    }

    #[test]
    fn json_is_one_line() {
        let advice = Advice {
            findings: layra::findings(),
        };
        let mut text = Vec::new();
        write(&advice, Output::Json, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert_eq!(text.lines().count(), 1);
        assert_eq!(serde_json::from_str::<Advice>(&text).unwrap(), advice);
    }

    #[test]
    fn what_layra_sets_is_advice_only() {
        for finding in layra::findings() {
            assert_eq!(finding.verdict, Verdict::Advice);
        }
    }
}
