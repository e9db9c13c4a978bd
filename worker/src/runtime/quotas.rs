//! Whether there is room for further documents, by the latest counts. It counts nothing itself:
//! `pipeline/quota.rs` does.
//!
//! A quota of the pipeline holds up every task, in its place in Kafka. A quota of one knowledge base
//! holds up the tasks of this one: they wait in the ledger, so that others overtake them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use layra_crds::{LAYRA_PAGE_VECTORS, QuotaKind, QuotaUse, QuotasSpec};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::runtime::failure::{Failure, Stage};
use crate::runtime::health::Health;
use crate::runtime::metrics::Metrics;
use crate::runtime::work::{self, Wait};

/// For how long a count of a knowledge base is good. Documents are stored meanwhile.
const FRESH: Duration = Duration::from_secs(10);
/// A knowledge base that was not counted for this long is not reported any more.
const REPORTED: Duration = Duration::from_mins(30);
/// Quotas that the worker reports.
const MOST_REPORTED: usize = 20;
/// Of the 16 MiB that MongoDB accepts as one document, what the list of files may take. Several files
/// may be entered between two counts.
const LIST_BYTES: u64 = (16 << 20) - (256 << 10);

/// What a pipeline's collections hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PipelineUsage {
    pub(crate) collections: u64,
    pub(crate) vectors: u64,
}

/// What one knowledge base holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BaseUsage {
    pub(crate) has_collection: bool,
    pub(crate) vectors: u64,
    /// Bytes of the MongoDB document in which LAYRA lists its files, with the next one.
    pub(crate) list_bytes: u64,
    /// They are estimated. An estimate warns, and lets no document wait.
    pub(crate) is_list_estimated: bool,
}

/// The room that a knowledge base has for another document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Room {
    /// The quota that is reached: the document must wait.
    pub(crate) full: Option<QuotaUse>,
    /// At least 80 % of a quota are used.
    pub(crate) is_near: bool,
}

/// The quotas and the latest counts.
#[derive(Debug)]
pub(crate) struct Quotas {
    spec: QuotasSpec,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
    held: watch::Sender<bool>,
    /// Number of tasks that wait for room in the pipeline.
    waiting: watch::Sender<usize>,
}

/// A task waits for room as long as this lives.
struct Counted<'a>(&'a watch::Sender<usize>);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

#[derive(Debug, Default)]
struct State {
    /// Bytes of one vector; 0 before the model is known.
    vector_bytes: u64,
    pipeline: Option<PipelineUsage>,
    bases: BTreeMap<String, (Instant, BaseUsage)>,
    /// The most vectors of a page so far.
    page_vectors: u64,
    /// The quotas that were logged as near.
    near: Vec<(QuotaKind, Option<String>)>,
}

impl State {
    fn forget_old(&mut self, now: Instant) {
        self.bases
            .retain(|_, (at, _)| now.saturating_duration_since(*at) < REPORTED);
    }
}

impl Quotas {
    pub(crate) fn new(
        spec: Option<QuotasSpec>,
        health: Arc<Health>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            spec: spec.unwrap_or_default(),
            health,
            metrics,
            state: Mutex::default(),
            held: watch::Sender::new(false),
            waiting: watch::Sender::new(0),
        }
    }

    /// Records the width of the model's vectors, which are stored as 4-byte numbers.
    pub(crate) fn set_dimensions(&self, dimensions: usize) {
        self.lock().vector_bytes = 4 * u64::try_from(dimensions).unwrap_or(u64::MAX / 4);
    }

    /// Whether the collections of the pipeline must be listed.
    pub(crate) fn counts_collections(&self) -> bool {
        self.spec.collections.is_some() || self.counts_vectors()
    }

    /// Whether the vectors of the whole pipeline must be counted.
    pub(crate) fn counts_vectors(&self) -> bool {
        self.spec.vectors.is_some() || self.spec.bytes.is_some()
    }

    /// Whether the vectors of single knowledge bases must be counted.
    pub(crate) fn counts_bases(&self) -> bool {
        let base = self.spec.per_knowledge_base;
        base.vectors.is_some() || base.bytes.is_some()
    }

    pub(crate) fn limits_collections(&self) -> bool {
        self.spec.collections.is_some()
    }

    /// Records what the pipeline holds: holds up its tasks, or lets them go on.
    pub(crate) fn record_pipeline(&self, usage: PipelineUsage) {
        let mut state = self.lock();
        state.pipeline = Some(usage);
        let uses = self.pipeline_uses(&state);
        let holds = |used: &&QuotaUse| used.kind != QuotaKind::Collections && used.is_reached();
        let full = uses.iter().find(holds).cloned();
        self.note(&mut state, &uses);
        drop(state);
        let held = full.is_some();
        self.health.hold_for_quota(held);
        if self.held.send_replace(held) == held {
            return;
        }
        if let Some(full) = full {
            tracing::warn!(
                quota = full.kind.as_str(),
                used = full.used,
                limit = full.limit,
                "a quota of the pipeline is reached, no further document is started"
            );
        } else {
            tracing::info!("the pipeline has room again");
        }
    }

    /// Whether a quota of the pipeline is reached.
    pub(crate) fn is_held(&self) -> bool {
        *self.held.borrow()
    }

    /// Whether a quota of the pipeline is reached, with its changes.
    pub(crate) fn held(&self) -> watch::Receiver<bool> {
        self.held.subscribe()
    }

    /// The number of tasks that wait for room: they need nothing else, and are in no other's way.
    pub(crate) fn waiting(&self) -> watch::Receiver<usize> {
        self.waiting.subscribe()
    }

    /// Waits until no quota of the pipeline is reached. Fails if the work is cancelled meanwhile.
    pub(crate) async fn wait_for_room(
        &self,
        cancel: &CancellationToken,
        shutdown: &CancellationToken,
    ) -> Result<(), Failure> {
        if !self.is_held() {
            return Ok(());
        }
        let _waiting = work::wait(Wait::Quota);
        self.waiting.send_modify(|count| *count += 1);
        let _counted = Counted(&self.waiting);
        let mut held = self.held.subscribe();
        tokio::select! {
            _ = held.wait_for(|held| !held) => Ok(()),
            () = cancel.cancelled() => Err(Failure::stopped(Stage::Intake)),
            () = shutdown.cancelled() => Err(Failure::stopped(Stage::Intake)),
        }
    }

    /// The room of a knowledge base, if it was counted a short time ago.
    pub(crate) fn known_room(&self, knowledge_base: &str, now: Instant) -> Option<Room> {
        let state = self.lock();
        let (at, usage) = state.bases.get(knowledge_base)?;
        (now.saturating_duration_since(*at) < FRESH)
            .then(|| self.room(&state, knowledge_base, usage))
    }

    /// Records what a knowledge base holds, and returns its room.
    pub(crate) fn record_base(&self, knowledge_base: &str, usage: BaseUsage, now: Instant) -> Room {
        let mut state = self.lock();
        state.forget_old(now);
        state.bases.insert(knowledge_base.to_owned(), (now, usage));
        let uses = self.base_uses(&state, knowledge_base, &usage);
        self.note(&mut state, &uses);
        self.room(&state, knowledge_base, &usage)
    }

    /// Records vectors that this worker has stored since the last count.
    pub(crate) fn record_stored(&self, knowledge_base: &str, vectors: u64) {
        if let Some((_, usage)) = self.lock().bases.get_mut(knowledge_base) {
            usage.has_collection = true;
            usage.vectors = usage.vectors.saturating_add(vectors);
        }
    }

    /// Records the number of a page's vectors.
    pub(crate) fn record_page(&self, vectors: usize) {
        let vectors = u64::try_from(vectors).unwrap_or(u64::MAX);
        if vectors > LAYRA_PAGE_VECTORS {
            self.metrics.pages_cut.inc();
        }
        let mut state = self.lock();
        if vectors > state.page_vectors {
            state.page_vectors = vectors;
            let uses = [page_use(vectors)];
            self.note(&mut state, &uses);
        }
    }

    /// The quotas of which at least 80 % are used, the fullest first. `None`: nothing was counted
    /// yet that there is a quota for.
    pub(crate) fn report(&self) -> Option<Vec<QuotaUse>> {
        self.report_at(Instant::now())
    }

    fn report_at(&self, now: Instant) -> Option<Vec<QuotaUse>> {
        let mut state = self.lock();
        // Without tasks nothing is counted, and documents may be deleted meanwhile.
        state.forget_old(now);
        if self.counts_collections() && state.pipeline.is_none() {
            return None;
        }
        let mut uses = self.all_uses(&state);
        uses.retain(QuotaUse::is_near);
        uses.sort_by_key(|used| std::cmp::Reverse(used.percent()));
        // Those of the pipeline come first.
        uses.sort_by_key(|used| used.knowledge_base.is_some());
        uses.truncate(MOST_REPORTED);
        Some(uses)
    }

    fn room(&self, state: &State, knowledge_base: &str, usage: &BaseUsage) -> Room {
        let mut uses = self.base_uses(state, knowledge_base, usage);
        if !usage.has_collection {
            let collections = self.pipeline_uses(state);
            let collections = collections.into_iter();
            uses.extend(collections.filter(|used| used.kind == QuotaKind::Collections));
        }
        Room {
            is_near: uses.iter().any(QuotaUse::is_near),
            full: uses.into_iter().find(QuotaUse::is_reached),
        }
    }

    fn pipeline_uses(&self, state: &State) -> Vec<QuotaUse> {
        let Some(usage) = state.pipeline else {
            return Vec::new();
        };
        let collections = self.spec.collections.map(u64::from);
        let bytes = usage.vectors.saturating_mul(state.vector_bytes);
        let counted = [
            (QuotaKind::Collections, usage.collections, collections),
            (QuotaKind::Vectors, usage.vectors, self.spec.vectors),
            (QuotaKind::Bytes, bytes, self.spec.bytes),
        ];
        limited(None, counted)
    }

    fn base_uses(&self, state: &State, knowledge_base: &str, usage: &BaseUsage) -> Vec<QuotaUse> {
        let spec = self.spec.per_knowledge_base;
        let bytes = usage.vectors.saturating_mul(state.vector_bytes);
        let list_bytes = if usage.is_list_estimated {
            usage.list_bytes.min(LIST_BYTES - 1)
        } else {
            usage.list_bytes
        };
        let counted = [
            (QuotaKind::Vectors, usage.vectors, spec.vectors),
            (QuotaKind::Bytes, bytes, spec.bytes),
            (QuotaKind::Files, list_bytes, Some(LIST_BYTES)),
        ];
        limited(Some(knowledge_base), counted)
    }

    fn all_uses(&self, state: &State) -> Vec<QuotaUse> {
        let mut uses = self.pipeline_uses(state);
        for (knowledge_base, (_, usage)) in &state.bases {
            uses.extend(self.base_uses(state, knowledge_base, usage));
        }
        uses.push(page_use(state.page_vectors));
        uses
    }

    /// Logs quotas that have become nearly full, and updates the metric.
    fn note(&self, state: &mut State, uses: &[QuotaUse]) {
        for used in uses {
            let key = (used.kind, used.knowledge_base.clone());
            let known = state.near.iter().position(|known| *known == key);
            match (used.is_near(), known) {
                (true, None) => {
                    tracing::warn!(
                        quota = used.kind.as_str(),
                        knowledge_base = used.knowledge_base,
                        used = used.used,
                        limit = used.limit,
                        "at least 80 % of a quota or of a limit of LAYRA are used"
                    );
                    state.near.push(key);
                }
                (false, Some(index)) => {
                    state.near.swap_remove(index);
                }
                _ => {}
            }
        }
        let mut fullest = BTreeMap::new();
        for used in self.all_uses(state) {
            let part = used.used as f64 / used.limit.max(1) as f64;
            let most = fullest.entry(label(&used)).or_insert(0.0_f64);
            *most = most.max(part);
        }
        for (label, part) in fullest {
            let gauge = &self.metrics.quota_used;
            gauge.with_label_values(&[label]).set(part);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn limited<const N: usize>(
    knowledge_base: Option<&str>,
    counted: [(QuotaKind, u64, Option<u64>); N],
) -> Vec<QuotaUse> {
    let limited = counted.into_iter().filter_map(|(kind, used, limit)| {
        Some(QuotaUse {
            kind,
            knowledge_base: knowledge_base.map(str::to_owned),
            used,
            limit: limit?,
        })
    });
    limited.collect()
}

fn page_use(vectors: u64) -> QuotaUse {
    QuotaUse {
        kind: QuotaKind::PageVectors,
        knowledge_base: None,
        used: vectors,
        limit: LAYRA_PAGE_VECTORS,
    }
}

/// The value of the metric's label.
fn label(used: &QuotaUse) -> &'static str {
    match (used.kind, used.knowledge_base.is_some()) {
        (QuotaKind::Collections, _) => "collections",
        (QuotaKind::Vectors, false) => "vectors",
        (QuotaKind::Bytes, false) => "bytes",
        (QuotaKind::Vectors, true) => "knowledge_base_vectors",
        (QuotaKind::Bytes, true) => "knowledge_base_bytes",
        (QuotaKind::Files, _) => "knowledge_base_files",
        (QuotaKind::PageVectors, _) => "page_vectors",
        (QuotaKind::Unknown, _) => "unknown",
    }
}

#[cfg(test)]
#[path = "quotas_tests.rs"]
mod tests;
