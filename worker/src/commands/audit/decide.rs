//! What may be repaired. No I/O.
//!
//! The absence of a document proves nothing by itself: its task may be queued, or a worker may be at
//! work. So nothing young is touched, and nothing of which no record shows that it is this
//! pipeline's.

use std::time::Duration;

use crate::stores::ledger::State;

/// Decides by age.
#[derive(Clone, Copy, Debug)]
pub(super) struct Age {
    /// Milliseconds since 1970.
    pub(super) now: i64,
    /// What is younger is left alone.
    pub(super) margin: Duration,
}

impl Age {
    /// Whether something that changed last at a time is old enough to be touched. What has no time
    /// is not.
    pub(super) fn is_old(self, changed_at: Option<i64>) -> bool {
        let margin = i64::try_from(self.margin.as_millis()).unwrap_or(i64::MAX);
        changed_at.is_some_and(|at| at <= self.now.saturating_sub(margin))
    }
}

/// What is known about something without a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is in work, or too young: no finding.
    None,
    /// It may be removed.
    Remove,
    /// It is a finding, and stays.
    Keep(&'static str),
}

/// A collection whose name has the form of the pipeline's, and that no knowledge base has.
#[derive(Clone, Copy, Debug)]
pub(super) struct LooseCollection {
    pub(super) created_at: i64,
    pub(super) has_layras_schema: bool,
    pub(super) evidence: Evidence,
    /// Whether a document of such a knowledge base is in progress.
    pub(super) in_work: bool,
}

/// What shows whose a collection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Evidence {
    /// It came out of an archive, or goes into one: somebody wants it.
    Archive,
    /// The ledger knows the knowledge base.
    Ledger,
    /// The name ends like LAYRA's ids do, MongoDB has the knowledge bases of other collections, and
    /// no other LAYRA uses this Milvus.
    Name,
    /// The name ends so, and it may be another LAYRA's, with a database of its own.
    NameOfSomeLayra,
    /// The name ends so, and MongoDB has no knowledge base of any collection: it may be another
    /// database than LAYRA's, or an empty one.
    NameAlone,
    Nothing,
}

/// What is known about all collections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Database {
    /// MongoDB has the knowledge base of some collection.
    pub(super) is_layras: bool,
    /// As the user says.
    pub(super) no_other_layra: bool,
}

/// `id`: as the name has it.
pub(super) fn evidence(
    is_archived: bool,
    is_recorded: bool,
    database: Database,
    id: &str,
) -> Evidence {
    match (ends_like_layras_id(id), database.is_layras) {
        _ if is_archived => Evidence::Archive,
        _ if is_recorded => Evidence::Ledger,
        (true, true) if database.no_other_layra => Evidence::Name,
        (true, true) => Evidence::NameOfSomeLayra,
        (true, false) => Evidence::NameAlone,
        (false, _) => Evidence::Nothing,
    }
}

pub(super) fn collection(age: Age, found: LooseCollection) -> Verdict {
    if found.in_work || !age.is_old(Some(found.created_at)) {
        return Verdict::None;
    }
    if !found.has_layras_schema {
        return Verdict::Keep("its fields are not those of LAYRA's collections");
    }
    match found.evidence {
        Evidence::Ledger | Evidence::Name => Verdict::Remove,
        Evidence::Archive => Verdict::Keep(
            "it was archived or restored: `layra-worker delete --knowledge-base` removes it",
        ),
        Evidence::NameOfSomeLayra => Verdict::Keep(
            "only its name connects it with LAYRA, and it may be another LAYRA's: \
             --no-other-layra says that there is none",
        ),
        Evidence::NameAlone => Verdict::Keep(
            "MongoDB has the knowledge base of no collection: is it LAYRA's database?",
        ),
        Evidence::Nothing => Verdict::Keep("nothing shows that it belonged to a knowledge base"),
    }
}

/// Rows or a page image of a file that `files` does not have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leftover {
    /// The state of the file's entry in the ledger, and when it changed last.
    pub(super) entry: Option<(State, i64)>,
    /// Whether this pipeline wrote the entry.
    pub(super) is_own: bool,
    /// Without an entry: when a repair saw it first.
    pub(super) first_seen: Option<i64>,
}

pub(super) fn leftover(age: Age, found: Leftover) -> Verdict {
    match found.entry {
        Some((State::Working, _)) => Verdict::None,
        Some((_, changed_at)) if !age.is_old(Some(changed_at)) => Verdict::None,
        Some(_) if !found.is_own => Verdict::Keep("another pipeline wrote it"),
        Some(_) => Verdict::Remove,
        None if age.is_old(found.first_seen) => Verdict::Remove,
        None => Verdict::Keep(
            "the ledger does not know the file: it is removed by a repair that comes later than \
             the first one by the time of --older-than-minutes",
        ),
    }
}

/// Longer than any collection of a rebuild is empty or not loaded.
const YOUNG: Duration = Duration::from_mins(10);

impl Age {
    /// The same, for what others do at this moment.
    pub(super) fn of_rebuilds(self) -> Self {
        Self {
            margin: self.margin.max(YOUNG),
            ..self
        }
    }
}

/// The rows of a collection that a rebuild has left.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leftovers {
    /// MongoDB or the ledger knows a document of it.
    pub(super) is_known: bool,
    /// Documents of which it has more rows than the collection that serves.
    pub(super) lacking: usize,
    /// When a repair saw it first.
    pub(super) first_seen: Option<i64>,
}

pub(super) fn leftovers(age: Age, found: Leftovers) -> Verdict {
    match found {
        // Another LAYRA may be rebuilding one of its collections.
        Leftovers {
            is_known: false, ..
        } => Verdict::None,
        Leftovers { lacking: 1.., .. } => Verdict::Keep(
            "if the collection that serves is missing, rename this one to its name; otherwise \
             ingest those documents again",
        ),
        Leftovers { first_seen, .. } if age.is_old(first_seen) => Verdict::Remove,
        Leftovers { .. } => Verdict::Keep(
            "it is removed by a repair that comes later than the first one by the time of \
             --older-than-minutes",
        ),
    }
}

/// Whether a key has the form of LAYRA's objects: `{username}_{stem}_{24 hex digits}.{extension}`.
pub(super) fn is_layras_key(key: &str) -> bool {
    let name = key.rsplit_once('.').map_or(key, |(name, _)| name);
    let Some((rest, digits)) = name.rsplit_once('_') else {
        return false;
    };
    let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    digits.len() == 24 && digits.bytes().all(is_hex) && rest.contains('_')
}

/// Whether the end of a collection's name is an id of LAYRA, `{name}_{uuid}` with `_` for `-`.
fn ends_like_layras_id(id: &str) -> bool {
    let mut parts = id.rsplit('_');
    let is_uuid = [12, 4, 4, 4, 8].into_iter().all(|length| {
        parts.next().is_some_and(|part| {
            part.len() == length && part.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
    });
    is_uuid && parts.next().is_some()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: i64 = 3_600_000;
    const LAYRAS_ID: &str = "roger_26eba553_dbee_474c_987f_6bd8c0ed6e1a";

    fn age(now: i64) -> Age {
        Age {
            now,
            margin: Duration::from_hours(1),
        }
    }

    fn any_state() -> impl Strategy<Value = State> {
        prop_oneof![
            Just(State::Working),
            Just(State::Done),
            Just(State::Failed),
            Just(State::Deleted),
        ]
    }

    proptest! {
        /// Whatever else is known: nothing in work, nothing young and nothing of others is removed.
        #[test]
        fn nothing_in_work_or_young_or_foreign_is_removed(
            now in 0..i64::MAX / 2,
            before in 0..3 * HOUR,
            entry in proptest::option::of(any_state()),
            is_own in any::<bool>(),
            seen in proptest::option::of(0..3 * HOUR),
        ) {
            let found = Leftover {
                entry: entry.map(|state| (state, now - before)),
                is_own,
                first_seen: seen.map(|before| now - before),
            };
            if leftover(age(now), found) == Verdict::Remove {
                match entry {
                    Some(state) => {
                        prop_assert!(state != State::Working && before >= HOUR && is_own);
                    }
                    None => prop_assert!(seen.is_some_and(|before| before >= HOUR)),
                }
            }
        }

        #[test]
        fn a_collection_is_dropped_only_if_everything_shows_that_it_may(
            now in 0..i64::MAX / 2,
            before in 0..3 * HOUR,
            (has_layras_schema, in_work) in any::<(bool, bool)>(),
            (is_archived, is_recorded, is_named) in any::<(bool, bool, bool)>(),
            (is_layras, no_other_layra) in any::<(bool, bool)>(),
        ) {
            let id = if is_named { LAYRAS_ID } else { "backup" };
            let database = Database { is_layras, no_other_layra };
            let found = LooseCollection {
                created_at: now - before,
                has_layras_schema,
                evidence: evidence(is_archived, is_recorded, database, id),
                in_work,
            };
            let is_known = is_recorded || (is_named && is_layras && no_other_layra);
            let may = before >= HOUR && has_layras_schema && is_known && !in_work && !is_archived;
            prop_assert_eq!(collection(age(now), found) == Verdict::Remove, may);
            let shown = before >= HOUR && !in_work;
            prop_assert_eq!(collection(age(now), found) != Verdict::None, shown);
        }
    }

    #[test]
    fn what_a_rebuild_has_left_is_removed_only_if_it_is_ours_and_its_rows_serve_elsewhere() {
        let at = |is_known, lacking, first_seen| {
            let found = Leftovers {
                is_known,
                lacking,
                first_seen,
            };
            leftovers(age(2 * HOUR), found)
        };
        assert_eq!(at(true, 0, Some(HOUR)), Verdict::Remove);
        assert_eq!(at(false, 0, Some(0)), Verdict::None);
        for kept in [
            at(true, 1, Some(0)),
            at(true, 0, Some(HOUR + 1)),
            at(true, 0, None),
        ] {
            assert!(matches!(kept, Verdict::Keep(_)), "{kept:?}");
        }
    }

    #[test]
    fn an_object_of_another_application_does_not_look_like_layras() {
        assert!(is_layras_key("roger_39_684bb6d725b754fb64e6cbd3.txt"));
        assert!(is_layras_key("roger_a_b.c_684bb6d725b754fb64e6cbd3.png"));
        assert!(is_layras_key("roger_README_684bb6d725b754fb64e6cbd3"));
        for key in [
            "backup.tar",
            "models/minilm/config.json",
            "684bb6d725b754fb64e6cbd3.png",
            "roger_684bb6d725b754fb64e6cbd3.png",
            "roger_39_684BB6D725B754FB64E6CBD3.txt",
            "roger_39_684bb6d7.txt",
        ] {
            assert!(!is_layras_key(key), "{key}");
        }
    }

    #[test]
    fn layras_ids_are_recognised_in_names_of_collections() {
        for id in [
            "roger_26eba553_dbee_474c_987f_6bd8c0ed6e1a",
            "temp_roger_26eba553_dbee_474c_987f_6bd8c0ed6e1a_26eba553_dbee_474c_987f_6bd8c0ed6e1a",
        ] {
            assert!(ends_like_layras_id(id), "{id}");
        }
        for id in [
            "backup",
            "26eba553_dbee_474c_987f_6bd8c0ed6e1a",
            "a_b_c_d_e_f",
        ] {
            assert!(!ends_like_layras_id(id), "{id}");
        }
    }
}
