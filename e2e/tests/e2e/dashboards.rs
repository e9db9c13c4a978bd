//! The shipped dashboards: every query returns data while documents flow.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use layra_charts::dashboards;
use layra_e2e::cluster::eventually;
use layra_e2e::pdf;
use layra_e2e::prometheus::Prometheus;
use serde_json::json;

use crate::scene::{Stage, on_stage};

const MINUTE: Duration = Duration::from_mins(1);

/// Metrics of which a healthy pipeline without a GPU and without quotas has no series: they count or
/// show what does not happen here.
const ABSENT: [&str; 9] = [
    // A GPU.
    "gpu_memory",
    // A server that does not respond, and batches that do not fit.
    "ingestion_retries_total",
    "ingestion_embedding_out_of_memory_total",
    // Pages that cannot be rendered, and renderers that end.
    "ingestion_pages_skipped_total",
    "ingestion_renderers_lost_total",
    "ingestion_quota_used_ratio",
    // A decision that is limited, and one that has changed the number of workers.
    "layra_operator_scaling_limited",
    "delta(layra_operator_desired_replicas",
    "layra_operator_reconcile_errors_total",
];

#[tokio::test]
async fn every_query_of_the_dashboards_returns_data() -> Result<()> {
    on_stage("dashboards", async |stage| {
        let program = stage.testbed.settings().bin("prometheus");
        let prometheus = Prometheus::start(&program, "groups: []").await?;
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

        let user = stage.user().await?;
        let good = pdf::with_pages(&["A page.", "Another page."]);
        let bad = user.upload_bytes("cut.pdf", good[..40].to_vec()).await?;
        let blank = user
            .upload_bytes("blank.pdf", pdf::with_pages(&[""]))
            .await?;
        let good = user.upload_bytes("good.pdf", good).await?;
        stage
            .wait_tasks(&[good, blank], "completed", 3 * MINUTE)
            .await?;
        stage.wait_tasks(&[bad], "failed", MINUTE).await?;

        let queries = queries(stage);
        ensure!(queries.len() > 50, "{} queries", queries.len());
        let mut missing = BTreeSet::new();
        let found = eventually("data of every query", 2 * MINUTE, async || {
            missing.clear();
            for query in &queries {
                if prometheus.series(query).await? == 0 {
                    missing.insert(query.clone());
                }
            }
            Ok(missing.is_empty().then_some(()))
        })
        .await;
        ensure!(found.is_ok(), "no data: {missing:#?}");
        Ok(())
    })
    .await
}

/// The queries as Grafana would ask them, without those that have no data here.
fn queries(stage: &Stage) -> Vec<String> {
    let all = dashboards::all();
    let queries = all.iter().flat_map(dashboards::Dashboard::queries);
    let expected = queries.filter(|query| !ABSENT.iter().any(|absent| query.contains(absent)));
    let filled = expected.map(|query| {
        query
            .replace("$namespace", &stage.scene.namespace)
            .replace("$pipeline", &stage.name)
            .replace("$__rate_interval", "1m")
    });
    filled.collect()
}
