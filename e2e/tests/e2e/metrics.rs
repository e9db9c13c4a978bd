//! What worker and operator serve is what `docs/metrics.md` says.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use layra_crds::metric_names::table::{ALWAYS, WITH_DOCUMENTS};
use layra_e2e::cluster::eventually;
use layra_e2e::{milvus_admin, pdf, prometheus};
use layra_testbed::settings::repository;
use serde_json::json;

use crate::scene::on_stage;

const MINUTE: Duration = Duration::from_mins(1);

/// The type of each metric, and when it is seen.
type Table = BTreeMap<String, (String, String)>;

#[tokio::test]
async fn every_metric_of_a_running_system_is_documented() -> Result<()> {
    on_stage("metrics", async |stage| {
        // Its first check finds this collection. Later ones come after up to a minute.
        let prefix = stage.name.replace('-', "_");
        let existing = format!("{prefix}_kb_1");
        milvus_admin::create_like_layra(&stage.stores.milvus, &existing, 384).await?;
        let collection = format!("{prefix}_{{knowledge_db_id}}");
        stage
            .apply_until_ready(&json!({"spec": {
                "stores": {"milvus": {"collection": collection}},
                "scaling": {"minReplicas": 1, "maxReplicas": 1},
            }}))
            .await?;
        let user = stage.user().await?;
        let good = pdf::with_pages(&["A page.", "Another page."]);
        let bad = user.upload_bytes("cut.pdf", good[..40].to_vec()).await?;
        let good = user.upload_bytes("good.pdf", good).await?;
        stage.wait_tasks(&[good], "completed", 3 * MINUTE).await?;
        stage.wait_tasks(&[bad], "failed", 3 * MINUTE).await?;

        let workers = prometheus::workers(&stage.scene, &stage.name).await?;
        compare("worker", workers.first().context("a worker")?).await?;
        let operators = prometheus::operators(&stage.scene).await?;
        compare("operator", operators.first().context("an operator")?).await?;
        milvus_admin::drop(&stage.stores.milvus, &existing).await
    })
    .await
}

/// Waits until everything documented is served, and checks that nothing else is.
async fn compare(program: &str, address: &str) -> Result<()> {
    let documented = documented(program)?;
    let mut missing = Vec::new();
    let served = eventually("all documented metrics", 2 * MINUTE, async || {
        let text = prometheus::get(&format!("http://{address}/metrics")).await?;
        let served = served(&text);
        let expected = documented
            .iter()
            .filter(|(_, (_, seen))| seen == ALWAYS || seen == WITH_DOCUMENTS);
        missing = expected
            .map(|(name, _)| name.clone())
            .filter(|name| !served.contains_key(name))
            .collect();
        Ok(missing.is_empty().then_some(served))
    })
    .await;
    let served = served.with_context(|| format!("the {program} does not serve {missing:?}"))?;
    for (name, kind) in served {
        let known = documented.get(&name).map(|(kind, _)| kind);
        ensure!(
            known == Some(&kind),
            "{name}, a {kind} of the {program}, is {known:?} in docs/metrics.md"
        );
    }
    Ok(())
}

fn served(text: &str) -> BTreeMap<String, String> {
    let types = text.lines().filter_map(|line| {
        let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
        Some((name.to_owned(), kind.to_owned()))
    });
    types.collect()
}

/// The table of one program in `docs/metrics.md`.
fn documented(program: &str) -> Result<Table> {
    let document = std::fs::read_to_string(repository().join("docs/metrics.md"))?;
    let begin = format!("<!-- {program} -->");
    let end = format!("<!-- end {program} -->");
    let (_, rest) = document.split_once(&begin).context("a table")?;
    let (table, _) = rest.split_once(&end).context("the end of the table")?;
    let rows = table.lines().filter_map(|line| {
        let mut cells = line.split(" | ");
        let name = cells.next()?.strip_prefix("| `")?.strip_suffix('`')?;
        let (kind, seen) = (cells.next()?, cells.nth(2)?);
        Some((name.to_owned(), (kind.to_owned(), seen.to_owned())))
    });
    let rows: Table = rows.collect();
    ensure!(!rows.is_empty(), "the table of the {program} is empty");
    Ok(rows)
}
