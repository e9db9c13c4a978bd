//! What happens to a collection that may be unused. No I/O.

use std::time::Duration;

use layra_crds::{Readers, RetentionAction, RetentionSpec};

use crate::stores::mongo::BaseLife;

const DAY: Duration = Duration::from_hours(24);

/// What is asked for. Times are in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) action: RetentionAction,
    pub(super) unused_for: i64,
    pub(super) notice: i64,
}

impl Terms {
    /// `unused_for`: instead of the object's `unusedForDays`.
    pub(super) fn new(spec: &RetentionSpec, unused_for: Option<Duration>) -> Self {
        let unused_for = unused_for.unwrap_or(DAY * spec.unused_for_days);
        Self {
            action: spec.action,
            unused_for: milliseconds(unused_for),
            notice: milliseconds(DAY * spec.notice_days),
        }
    }
}

/// What is known about a collection. Times are in milliseconds since 1970.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    pub(super) base: BaseLife,
    /// The latest of all times at which somebody may have used it.
    pub(super) last_use: i64,
    /// When the action was announced.
    pub(super) noticed_at: Option<i64>,
    /// Whether a document of it is in progress.
    pub(super) in_work: bool,
    /// Whether records show that the pipeline wrote it.
    pub(super) is_own: bool,
    /// Whether it is in Milvus' memory.
    pub(super) is_loaded: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Nothing will happen to it.
    Keep,
    /// It must be announced that the action follows at a time.
    Notice(i64),
    /// That was announced.
    Wait(i64),
    /// The time has come.
    Act,
}

pub(super) fn decide(terms: Terms, readers: Readers, facts: Facts, now: i64) -> Decision {
    let is_allowed = match (readers, terms.action) {
        (Readers::Own, _) => true,
        // LAYRA finds nothing in a collection that is not loaded, or missing.
        (Readers::Layra, RetentionAction::Release) => false,
        (Readers::Layra, RetentionAction::Archive | RetentionAction::Delete) => {
            facts.base != BaseLife::InUse
        }
    };
    let is_released = terms.action == RetentionAction::Release && !facts.is_loaded;
    if !is_allowed || facts.in_work || !facts.is_own || is_released {
        return Decision::Keep;
    }
    let unused_at = facts.last_use.saturating_add(terms.unused_for);
    if now < unused_at {
        return Decision::Keep;
    }
    match facts.noticed_at {
        // It was used after an earlier notice.
        Some(noticed_at) if noticed_at >= unused_at => {
            let acts_at = noticed_at.saturating_add(terms.notice);
            if now < acts_at {
                Decision::Wait(acts_at)
            } else {
                Decision::Act
            }
        }
        _ => Decision::Notice(now.saturating_add(terms.notice)),
    }
}

fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ACTIONS: [RetentionAction; 3] = [
        RetentionAction::Release,
        RetentionAction::Archive,
        RetentionAction::Delete,
    ];

    fn days(count: u32) -> i64 {
        milliseconds(DAY * count)
    }

    fn spec(action: RetentionAction) -> RetentionSpec {
        RetentionSpec {
            unused_for_days: 90,
            notice_days: 7,
            action,
            dry_run: false,
        }
    }

    fn terms(action: RetentionAction) -> Terms {
        Terms::new(&spec(action), None)
    }

    fn any_facts() -> impl Strategy<Value = Facts> {
        let base = prop_oneof![
            Just(BaseLife::Gone),
            Just(BaseLife::MarkedDeleted),
            Just(BaseLife::InUse),
        ];
        let flags = any::<(bool, bool, bool)>();
        (base, 0..200_u32, proptest::option::of(0..200_u32), flags).prop_map(
            |(base, used, noticed, (in_work, is_own, is_loaded))| Facts {
                base,
                last_use: days(used),
                noticed_at: noticed.map(days),
                in_work,
                is_own,
                is_loaded,
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// An action was announced, long enough before, and after the collection was unused.
        #[test]
        fn nothing_happens_without_a_notice_or_to_what_was_used(
            facts in any_facts(), now in 0..400_u32, action in 0..3_usize, own in any::<bool>(),
        ) {
            let readers = if own { Readers::Own } else { Readers::Layra };
            let decision = decide(terms(ACTIONS[action]), readers, facts, days(now));
            if decision == Decision::Act {
                let noticed = facts.noticed_at.expect("a notice");
                prop_assert!(noticed >= facts.last_use + days(90));
                prop_assert!(days(now) >= noticed + days(7));
            }
            if decision != Decision::Keep {
                prop_assert!(days(now) >= facts.last_use + days(90));
                prop_assert!(facts.is_own && !facts.in_work);
            }
        }

        #[test]
        fn layra_never_loses_what_it_can_search(
            facts in any_facts(), now in 0..400_u32, action in 0..3_usize,
        ) {
            let action = ACTIONS[action];
            let decision = decide(terms(action), Readers::Layra, facts, days(now));
            if facts.base == BaseLife::InUse || action == RetentionAction::Release {
                prop_assert_eq!(decision, Decision::Keep);
            }
        }
    }

    #[test]
    fn an_unused_collection_is_announced_and_then_handled() {
        let mut facts = Facts {
            base: BaseLife::Gone,
            last_use: 0,
            noticed_at: None,
            in_work: false,
            is_own: true,
            is_loaded: true,
        };
        let at = |facts, day| {
            let terms = terms(RetentionAction::Archive);
            decide(terms, Readers::Layra, facts, days(day))
        };
        assert_eq!(at(facts, 89), Decision::Keep);
        assert_eq!(at(facts, 90), Decision::Notice(days(97)));
        facts.noticed_at = Some(days(90));
        assert_eq!(at(facts, 96), Decision::Wait(days(97)));
        assert_eq!(at(facts, 97), Decision::Act);
        // A search on day 95 was noted: the notice is void, also long after.
        facts.last_use = days(95);
        assert_eq!(at(facts, 97), Decision::Keep);
        assert_eq!(at(facts, 185), Decision::Notice(days(192)));
    }

    #[test]
    fn by_hand_the_time_may_be_shorter_and_the_notice_stays() {
        let facts = Facts {
            base: BaseLife::InUse,
            last_use: days(10),
            noticed_at: None,
            in_work: false,
            is_own: true,
            is_loaded: true,
        };
        let hour = Duration::from_hours(1);
        let terms = Terms::new(&spec(RetentionAction::Release), Some(hour));
        let at = |now| decide(terms, Readers::Own, facts, now);
        assert_eq!(at(days(10)), Decision::Keep);
        let now = days(10) + milliseconds(hour);
        assert_eq!(at(now), Decision::Notice(now + days(7)));
    }
}
