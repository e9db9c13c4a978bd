//! Quotas in the condition VectorStoreReady. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use layra_crds::{LAYRA_PAGE_VECTORS, QuotaKind, QuotaUse};

use super::conditions::Verdict;
use crate::reconcile::{counts::Reports, reason::Reason};

/// Knowledge bases that the message names.
const MOST_NAMED: usize = 5;

/// The verdict about the vector store, with what the workers say about quotas. Without workers the
/// last verdict about quotas holds: nothing is written then.
pub(super) fn judge(store: Verdict, reports: &Reports, before: Option<&Condition>) -> Verdict {
    if !store.is_true() {
        return store;
    }
    let Some(quotas) = &reports.quotas else {
        let before = before.and_then(Verdict::of);
        return before
            .filter(|verdict| is_about_quotas(verdict.reason))
            .unwrap_or(store);
    };
    let verdict = of_pipeline(quotas)
        .or_else(|| of_full_bases(quotas, reports.without_room))
        .or_else(|| of_near(quotas));
    match verdict {
        Some(verdict) if store.reason == Reason::IndexDrift => Verdict {
            message: format!("{} {}", verdict.message, store.message),
            ..verdict
        },
        Some(verdict) => verdict,
        None => store,
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

    use super::*;
    use crate::reconcile::plan::conditions::{self, Status};

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
        let reports = Reports {
            quotas: Some(quotas),
            without_room: 7,
            ..Reports::default()
        };
        judge(good(), &reports, None)
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
        let nobody = Reports::default();
        assert_eq!(judge(good(), &nobody, before(full.clone()).first()), full);
        let drift = Verdict::yes(Reason::IndexDrift, "drift");
        assert_eq!(judge(good(), &nobody, before(drift).first()), good());
        let away = Verdict::no(Reason::MilvusUnreachable, "away");
        assert_eq!(judge(away.clone(), &nobody, before(full).first()), away);
    }
}
