//! The shipped dashboards: every query returns data while documents flow. With `UPDATE_PICTURES` the
//! pictures of the documentation are drawn from the same queries.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use jiff::Timestamp;
use layra_charts::dashboards::picture::{Answers, Series};
use layra_charts::dashboards::{self, Dashboard};
use layra_e2e::cluster::eventually;
use layra_e2e::layra::User;
use layra_e2e::pdf;
use layra_e2e::prometheus::Prometheus;
use layra_testbed::settings::repository;
use serde_json::json;

use crate::scene::{Stage, on_stage};

const MINUTE: Duration = Duration::from_mins(1);
const SECOND: Duration = Duration::from_secs(1);

/// Parts of the queries that have no data in a healthy pipeline without a GPU: they show or count what
/// does not happen here.
const ABSENT: [&str; 6] = [
    // A GPU.
    "gpu_memory_usage_bytes",
    // A server that does not respond, a page that cannot be rendered, a reconcile that fails.
    "ingestion_retries_total",
    "ingestion_pages_skipped_total",
    "layra_operator_reconcile_errors_total",
    // Marks: another number of workers, and a limit that applies.
    "delta(layra_operator_desired_replicas",
    "} == 1",
];

#[tokio::test]
async fn every_query_of_the_dashboards_returns_data() -> Result<()> {
    on_stage("dashboards", async |stage| {
        let program = stage.testbed.settings().bin("prometheus");
        let prometheus = Prometheus::start(&program, "groups: []").await?;
        let begun = Timestamp::now().as_second();
        // Short, so that the largest number of the scale-down delay is known.
        let one = json!({"minReplicas": 1, "maxReplicas": 1, "scaleDownDelaySeconds": 10});
        stage
            .apply_until_ready(&json!({"spec": {"scaling": one}}))
            .await?;
        let scrape = async || prometheus.scrape(&stage.scene, &[&stage.name]).await;
        let worker = format!(
            "ingestion_pages_total{{pipeline=\"{}\"}} offset 3s",
            stage.name
        );
        eventually("a scraped worker", 3 * MINUTE, async || {
            scrape().await?;
            Ok((prometheus.series(&worker).await? > 0).then_some(()))
        })
        .await?;

        let user = stage.user().await?.using_partitions_in_turn(4);
        let cut = pdf::with_pages(&["A page."])[..40].to_vec();
        user.upload_bytes("cut.pdf", cut).await?;
        let mut missing = queries()?;
        ensure!(missing.len() > 60, "{} queries", missing.len());
        // One document a second: rates and durations are those of what is processed now.
        let (mut documents, mut last) = (0, Instant::now());
        let found = eventually("data of every query", 2 * MINUTE, async || {
            if documents == 0 || last.elapsed() > SECOND {
                let text = format!("Document {documents}.");
                let content = pdf::with_pages(&[text.as_str()]);
                let name = format!("{documents}.pdf");
                user.upload_bytes(&name, content).await?;
                (documents, last) = (documents + 1, Instant::now());
            }
            scrape().await?;
            let mut without = Vec::new();
            for query in &missing {
                if !prometheus.has_numbers(&filled(query, stage)).await? {
                    without.push(query.clone());
                }
            }
            missing = without;
            Ok(missing.is_empty().then_some(()))
        })
        .await;
        ensure!(found.is_ok(), "{found:?} of {missing:#?}");

        if std::env::var_os("UPDATE_PICTURES").is_some() {
            flow(stage, &user, &prometheus).await?;
            draw(stage, &prometheus, begun).await?;
        }
        Ok(())
    })
    .await
}

/// The queries, without those that have no data here.
fn queries() -> Result<Vec<String>> {
    let all = dashboards::all();
    let all: Vec<&str> = all.iter().flat_map(Dashboard::queries).collect();
    for part in ABSENT {
        ensure!(all.iter().any(|query| query.contains(part)), "{part}");
    }
    let expected = all
        .iter()
        .filter(|query| !ABSENT.iter().any(|part| query.contains(part)));
    Ok(expected.map(|query| (*query).to_owned()).collect())
}

/// A query as Grafana would ask it.
fn filled(query: &str, stage: &Stage) -> String {
    query
        .replace("$namespace", &stage.scene.namespace)
        .replace("$pipeline", &stage.name)
        .replace("$__rate_interval", "1m")
}

/// Five minutes of documents, with a burst that one worker cannot process in the drain target.
async fn flow(stage: &Stage, user: &User, prometheus: &Prometheus) -> Result<()> {
    let three = json!({"minReplicas": 1, "maxReplicas": 3, "scaleDownDelaySeconds": 30});
    let three = json!({"spec": {"scaling": three}});
    stage.scene.apply(&stage.pipeline(&three)).await?;
    for round in 0..60 {
        let documents = match round {
            0..20 | 24..45 => 1,
            20..24 => 25,
            _ => 0,
        };
        for number in 0..documents {
            let texts = (0..8).map(|page| format!("Page {page} of {round}-{number}."));
            let texts: Vec<String> = texts.collect();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let name = format!("{round}-{number}.pdf");
            user.upload_bytes(&name, pdf::with_pages(&texts)).await?;
        }
        prometheus.scrape(&stage.scene, &[&stage.name]).await?;
        tokio::time::sleep(5 * SECOND).await;
    }
    stage.wait_until_processed().await
}

/// Asks the queries for the whole time, and writes a picture of each dashboard.
async fn draw(stage: &Stage, prometheus: &Prometheus, begun: i64) -> Result<()> {
    let end = Timestamp::now().as_second();
    let step = 2;
    let mut answers = Answers {
        seconds: (end - begun) as f64,
        step: step as f64,
        ..Answers::default()
    };
    for dashboard in dashboards::all() {
        for query in dashboard.queries() {
            let asked = filled(query, stage);
            let found = prometheus.range(&asked, (begun, end), step).await?;
            let series = found
                .into_iter()
                .map(|(labels, points)| Series { labels, points });
            answers.series.insert(query.to_owned(), series.collect());
        }
        let name = format!("docs/pictures/dashboard-{}.svg", dashboard.name);
        std::fs::write(repository().join(name), dashboard.picture(&answers))?;
    }
    Ok(())
}
