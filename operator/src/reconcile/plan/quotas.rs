//! Quotas in the condition VectorStoreReady. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use layra_crds::{LAYRA_PAGE_VECTORS, QuotaKind, QuotaUse};

use super::conditions::{Status, Verdict};
use crate::reconcile::{reason::Reason, world::World};

/// Knowledge bases that the message names.
const MOST_NAMED: usize = 5;

/// The verdict about the vector store, with what the workers say about quotas. Without workers the
/// last verdict about quotas holds: nothing is written then.
pub(super) fn judge(store: Verdict, world: &World, before: Option<&Condition>) -> Verdict {
    if !store.is_true() {
        return store;
    }
    let reports = &world.reports;
    let verdict = match &reports.quotas {
        Some(quotas) => of_pipeline(quotas)
            .or_else(|| of_full_bases(quotas, reports.without_room))
            .or_else(|| of_near(quotas)),
        None => last_known(world, before),
    };
    match verdict {
        Some(verdict) => together(verdict, store),
        None => store,
    }
}

/// The last verdict about quotas. Without messages and workers nothing waits for room, and there may
/// be some again.
fn last_known(world: &World, before: Option<&Condition>) -> Option<Verdict> {
    let before = before.and_then(Verdict::of)?;
    let is_idle = world.pods.is_empty() && world.lag() == Some(0);
    is_about_quotas(before.reason).then(|| Verdict {
        status: if is_idle { Status::True } else { before.status },
        message: before.message.lines().next().unwrap_or_default().to_owned(),
        ..before
    })
}

/// Both verdicts in one, each in a line of its own. The one that needs a person comes first.
fn together(quotas: Verdict, store: Verdict) -> Verdict {
    let is_store_first = match store.reason {
        Reason::IndexesMatch => return quotas,
        Reason::RebuildFailed
        | Reason::RebuildWindowInvalid
        | Reason::RebuildHeld
        | Reason::ModelMismatch
        | Reason::ReembeddingFailed => true,
        Reason::Rebuilding | Reason::RebuildWaiting | Reason::Reembedding => {
            quotas.reason == Reason::QuotaNear
        }
        _ => false,
    };
    let is_store_first = is_store_first && quotas.is_true();
    let (first, second) = if is_store_first {
        (store, quotas)
    } else {
        (quotas, store)
    };
    Verdict {
        message: format!("{}\n{}", first.message, second.message),
        ..first
    }
}

fn is_about_quotas(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::QuotaReached | Reason::KnowledgeBaseFull | Reason::QuotaNear
    )
}

/// A quota that holds up every document.
fn of_pipeline(quotas: &[QuotaUse]) -> Option<Verdict> {
    let holds = |used: &&QuotaUse| {
        let kind = matches!(used.kind, QuotaKind::Vectors | QuotaKind::Bytes);
        kind && used.knowledge_base.is_none() && used.is_reached()
    };
    let full = quotas.iter().find(holds)?;
    let message = format!(
        "The collections hold {}, and stores.milvus.quotas allows {}. No worker starts a document; nothing is lost. Delete documents (`kubectl layra run NAME -- delete`, or in LAYRA) or raise the quota.",
        amount(full),
        full.limit
    );
    Some(Verdict::no(Reason::QuotaReached, message))
}

/// Knowledge bases whose documents wait.
fn of_full_bases(quotas: &[QuotaUse], without_room: u64) -> Option<Verdict> {
    let is_full = |used: &&QuotaUse| {
        let holds = used.knowledge_base.is_some() || used.kind == QuotaKind::Collections;
        holds && used.is_reached()
    };
    let full: Vec<&QuotaUse> = quotas.iter().filter(is_full).collect();
    if full.is_empty() {
        return None;
    }
    let waiting = match without_room {
        0 => String::new(),
        1 => " 1 document waits.".to_owned(),
        more => format!(" {more} documents wait."),
    };
    let message = format!(
        "No room: {}.{waiting} Other documents go on. Delete documents, or raise the quota in stores.milvus.quotas; LAYRA's limit of files cannot be raised: use another knowledge base.",
        named(&full)
    );
    Some(Verdict::yes(Reason::KnowledgeBaseFull, message))
}

fn of_near(quotas: &[QuotaUse]) -> Option<Verdict> {
    let near: Vec<&QuotaUse> = quotas.iter().filter(|used| used.is_near()).collect();
    (!near.is_empty()).then(|| {
        let message = format!("At least 80 % are used: {}.", named(&near));
        Verdict::yes(Reason::QuotaNear, message)
    })
}

fn named(quotas: &[&QuotaUse]) -> String {
    let names: Vec<String> = quotas
        .iter()
        .take(MOST_NAMED)
        .map(|used| sentence(used))
        .collect();
    match quotas.len().saturating_sub(MOST_NAMED) {
        0 => names.join("; "),
        more => format!("{}; and {more} more", names.join("; ")),
    }
}

fn sentence(used: &QuotaUse) -> String {
    let percent = used.percent();
    match (used.kind, &used.knowledge_base) {
        (QuotaKind::PageVectors, _) => format!(
            "the largest page has {} vectors, and LAYRA ignores those after the first {LAYRA_PAGE_VECTORS} (lower embedding.maxVisualTokens or raise poolFactor)",
            used.used
        ),
        (QuotaKind::Files, Some(id)) => format!(
            "knowledge base {id} has {percent} % of the files that fit into LAYRA's list of them"
        ),
        (_, Some(id)) => format!(
            "knowledge base {id} has {percent} % of {} {}",
            used.limit,
            used.kind.as_str()
        ),
        (_, None) => format!(
            "the pipeline has {percent} % of {} {}",
            used.limit,
            used.kind.as_str()
        ),
    }
}

/// Rounded, so that the message does not change with every count.
fn amount(used: &QuotaUse) -> String {
    format!("{} % of the {}", used.percent(), used.kind.as_str())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use layra_autoscaler::Backlog;

    use super::*;
    use crate::reconcile::{counts::Reports, plan::conditions};

    fn used(kind: QuotaKind, knowledge_base: Option<&str>, used: u64) -> QuotaUse {
        QuotaUse {
            kind,
            knowledge_base: knowledge_base.map(str::to_owned),
            used,
            limit: 100,
        }
    }

    fn good() -> Verdict {
        Verdict::yes(Reason::IndexesMatch, "All 3 collections match.")
    }

    fn judged(quotas: Vec<QuotaUse>) -> Verdict {
        judge(good(), &reported(Some(quotas)), None)
    }

    fn reported(quotas: Option<Vec<QuotaUse>>) -> World {
        let without_room = if quotas.is_some() { 7 } else { 0 };
        World {
            reports: Reports {
                quotas,
                without_room,
                ..Reports::default()
            },
            ..World::unobserved()
        }
    }

    #[test]
    fn a_rebuild_and_a_quota_are_both_said_and_what_needs_a_person_is_the_reason() {
        let both = |store, quota| {
            let store = Verdict::yes(store, "The store's words.");
            let verdict = judge(store, &reported(Some(vec![quota])), None);
            assert!(
                verdict.message.contains("The store's words."),
                "{verdict:?}"
            );
            assert!(verdict.message.contains('%'), "{verdict:?}");
            verdict.reason
        };
        let near = || used(QuotaKind::Vectors, None, 85);
        let full = || used(QuotaKind::Vectors, Some("kb"), 100);
        let reached = || used(QuotaKind::Vectors, None, 100);
        assert_eq!(both(Reason::Rebuilding, near()), Reason::Rebuilding);
        assert_eq!(both(Reason::Rebuilding, full()), Reason::KnowledgeBaseFull);
        assert_eq!(both(Reason::RebuildFailed, full()), Reason::RebuildFailed);
        assert_eq!(both(Reason::RebuildFailed, reached()), Reason::QuotaReached);
        assert_eq!(both(Reason::IndexDrift, near()), Reason::QuotaNear);
    }

    #[test]
    fn the_last_verdict_about_quotas_does_not_keep_the_words_of_an_old_rebuild() {
        let rebuilding = Verdict::yes(Reason::Rebuilding, "Rebuilding.");
        let full = used(QuotaKind::Vectors, Some("kb"), 100);
        let first = judge(rebuilding, &reported(Some(vec![full])), None);
        let before = conditions::update(&[], vec![("x", first)], Some(1), Timestamp::UNIX_EPOCH);
        let after = judge(good(), &reported(None), before.first());
        assert_eq!(after.reason, Reason::KnowledgeBaseFull);
        assert!(!after.message.contains("Rebuilding"), "{}", after.message);
    }

    #[test]
    fn a_reached_quota_of_the_pipeline_makes_it_not_ready() {
        let vectors = used(QuotaKind::Vectors, None, 103);
        let verdict = judged(vec![vectors, used(QuotaKind::Files, Some("kb"), 100)]);
        assert_eq!(
            (verdict.status, verdict.reason),
            (Status::False, Reason::QuotaReached)
        );
        let words = "hold 103 % of the vectors, and stores.milvus.quotas allows 100";
        assert!(verdict.message.contains(words), "{}", verdict.message);
    }

    #[test]
    fn full_knowledge_bases_and_collections_leave_the_pipeline_ready() {
        for full in [
            used(QuotaKind::Bytes, Some("kb"), 100),
            used(QuotaKind::Files, Some("kb"), 100),
            used(QuotaKind::Collections, None, 100),
        ] {
            let verdict = judged(vec![full]);
            assert_eq!(
                (verdict.status, verdict.reason),
                (Status::True, Reason::KnowledgeBaseFull)
            );
            assert!(verdict.message.contains("7 documents wait."), "{verdict:?}");
        }
    }

    #[test]
    fn four_fifths_are_a_warning_with_the_names() {
        let near: Vec<QuotaUse> = (0..7)
            .map(|number| used(QuotaKind::Vectors, Some(&format!("kb{number}")), 85))
            .collect();
        let verdict = judged(near);
        assert_eq!(
            (verdict.status, verdict.reason),
            (Status::True, Reason::QuotaNear)
        );
        let words = "knowledge base kb4 has 85 % of 100 vectors; and 2 more.";
        assert!(verdict.message.contains(words), "{}", verdict.message);
        // LAYRA cuts pages: documents go on.
        let cut = judged(vec![used(QuotaKind::PageVectors, None, 120)]);
        assert_eq!(cut.reason, Reason::QuotaNear);
        assert!(cut.message.contains("the largest page has 120 vectors"));
        assert_eq!(judged(Vec::new()), good());
    }

    #[test]
    fn without_workers_the_last_verdict_about_quotas_holds() {
        let before =
            |verdict| conditions::update(&[], vec![("x", verdict)], Some(1), Timestamp::UNIX_EPOCH);
        let full = Verdict::no(Reason::QuotaReached, "full");
        let mut nobody = reported(None);
        assert_eq!(judge(good(), &nobody, before(full.clone()).first()), full);
        let drift = Verdict::yes(Reason::IndexDrift, "drift");
        assert_eq!(judge(good(), &nobody, before(drift).first()), good());
        let away = Verdict::no(Reason::MilvusUnreachable, "away");
        let kept = judge(away.clone(), &nobody, before(full.clone()).first());
        assert_eq!(kept, away);
        // Nobody waits: a person may have deleted documents meanwhile, and nobody counts.
        nobody.backlog = Ok(Backlog::default());
        let idle = judge(good(), &nobody, before(full).first());
        assert_eq!(
            (idle.status, idle.reason),
            (Status::True, Reason::QuotaReached)
        );
    }
}
