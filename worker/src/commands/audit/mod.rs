//! The `audit` command: compares the stores with each other and with the ledger, and repairs what it
//! can prove.
//!
//! It removes what is left of documents that are gone, under the lease of their entries, and sends
//! the tasks of documents again that the stores do not hold exactly once. An original is never
//! removed: its task may be queued. See `docs/decisions/0025-the-life-of-a-collection.md`.

mod collections;
mod decide;
mod documents;
mod leftovers;
mod objects;
mod report;
mod texts;

use std::collections::BTreeSet;
use std::time::Duration;

use layra_crds::{COLLECTION_PLACEHOLDER, MilvusSpec, RenderSpec};
use mongodb::bson::DateTime;

use crate::assembly::Common;
use crate::kafka::committed::Committed;
use crate::kafka::outbox::Outbox;
use crate::pipeline::Remover;
use crate::runtime::failure::Failure;
use crate::runtime::retry::Retry;
use crate::stores::Stores;
use decide::{Age, Database, Verdict};
use report::{Finding, Kind, Outcome};

pub(crate) use report::Report;

/// What to do with findings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice {
    pub(crate) repair: bool,
    /// What changed less than this ago is left alone.
    pub(crate) margin: Duration,
    /// No other LAYRA uses this Milvus.
    pub(crate) no_other_layra: bool,
}

pub(crate) async fn audit(common: &Common, choice: Choice) -> Result<Report, Failure> {
    let start = DateTime::now();
    let mut audit = Audit {
        stores: common.stores().await?,
        render: common.settings.config.documents.render.clone(),
        outbox: Outbox::new(&common.settings)?,
        committed: Committed::new(&common.settings)?,
        retry: common.retry(),
        repair: choice.repair,
        no_other_layra: choice.no_other_layra,
        age: Age {
            now: start.timestamp_millis(),
            margin: choice.margin,
        },
        report: Report::default(),
    };
    audit.run().await?;
    if choice.repair {
        audit.stores.ledger.forget_unseen(start).await?;
    }
    Ok(audit.report)
}

struct Audit {
    stores: Stores,
    render: RenderSpec,
    outbox: Outbox,
    committed: Committed,
    retry: Retry,
    repair: bool,
    no_other_layra: bool,
    age: Age,
    report: Report,
}

impl Audit {
    async fn run(&mut self) -> Result<(), Failure> {
        // Collections come first: each of them was created before the knowledge bases are read.
        let milvus = &self.stores.milvus;
        let all = self.stores.vectors.collection_names().await?;
        let mut collections: BTreeSet<String> = all.iter().cloned().collect();
        collections.retain(|name| milvus.owns_collection(name));
        let bases = self.stores.documents.knowledge_base_ids().await?;
        let used: BTreeSet<String> = bases.iter().map(|id| milvus.collection_of(id)).collect();

        let database = Database {
            is_layras: !collections.is_disjoint(&used),
            no_other_layra: self.no_other_layra,
        };
        for name in collections.difference(&used) {
            self.loose_collection(name, database).await?;
        }
        self.rebuild_leftovers(&all).await?;
        for id in &bases {
            self.knowledge_base(id).await?;
        }
        self.texts().await?;
        self.objects(&bases.into_iter().collect()).await
    }

    fn remover(&self) -> Remover<'_> {
        Remover {
            stores: &self.stores,
            render: &self.render,
        }
    }

    /// Adds what was found. Returns whether it must be removed now; the caller then adds it.
    fn note(&mut self, verdict: Verdict, mut finding: Finding) -> Option<Finding> {
        match verdict {
            Verdict::None => None,
            Verdict::Keep(why) => {
                finding.outcome = Outcome::Kept;
                finding.note = format!("{}; {why}", finding.note);
                self.report.add(finding);
                None
            }
            Verdict::Remove if self.repair => Some(finding),
            Verdict::Remove => {
                self.report.add(finding);
                None
            }
        }
    }

    fn removed(&mut self, finding: Finding) {
        tracing::info!(kind = ?finding.kind, name = finding.name, "removed");
        self.report.add(Finding {
            outcome: Outcome::Removed,
            ..finding
        });
    }
}

fn finding(kind: Kind, name: &str, knowledge_base: Option<&str>, note: String) -> Finding {
    Finding {
        kind,
        name: name.to_owned(),
        knowledge_base: knowledge_base.map(str::to_owned),
        outcome: Outcome::Found,
        note,
    }
}

/// The id of the knowledge base in the name of a collection, with `_` for `-`.
pub(crate) fn id_in<'a>(milvus: &MilvusSpec, collection: &'a str) -> Option<&'a str> {
    let (prefix, suffix) = milvus.collection.split_once(COLLECTION_PLACEHOLDER)?;
    collection.strip_prefix(prefix)?.strip_suffix(suffix)
}
