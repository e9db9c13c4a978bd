//! Tests of the order of deletions and requests.

use proptest::prelude::*;

use super::*;
use crate::document::Origin;
use crate::stores::ledger::an_entry;

fn time(ms: i64) -> DateTime {
    DateTime::from_millis(ms)
}

fn position(partition: i32, offset: i64) -> Origin {
    Origin {
        topic: "tasks".into(),
        partition,
        offset,
    }
}

fn task(partition: i32, offset: i64, ms: i64) -> Sent {
    Sent {
        origin: position(partition, offset).to_string(),
        at: time(ms),
    }
}

fn deletion(partition: i32, offset: i64, ms: i64) -> Cutoff {
    Cutoff::of_message(&position(partition, offset), time(ms))
}

fn requested(entry: &Entry, request: &Sent) -> Entry {
    Entry {
        requested_at: Some(request.at),
        requested_origin: Some(request.origin.clone()),
        ..entry.clone()
    }
}

/// The entry after a deletion was marked, as [`Ledger::mark_deleted`] writes it.
fn deleted_by(entry: &Entry, cutoff: &Cutoff) -> Entry {
    let earlier = entry.finished_at.filter(|_| entry.state == State::Deleted);
    Entry {
        state: State::Deleted,
        deletion_requested: true,
        deletions: entry.deletions_with(cutoff),
        finished_at: earlier.max(Some(cutoff.at)),
        ..entry.clone()
    }
}

/// The clock of whoever wrote the object again may be behind that of the worker.
#[test]
fn an_object_that_is_in_its_bucket_again_is_no_deleted_document() {
    let gone = Entry {
        object: Some("docs/contracts/a.pdf".into()),
        finished_at: Some(time(1_000)),
        ..an_entry(State::Deleted)
    };
    let earlier = task(1, 7, 500);
    assert!(!gone.is_deleted_after(&earlier));
    let of_layra = Entry {
        object: None,
        ..gone.clone()
    };
    assert!(of_layra.is_deleted_after(&earlier));
    let asked = Entry {
        deletions: vec![deletion(1, 9, 900)],
        ..gone
    };
    assert!(asked.is_deleted_after(&earlier), "somebody asked for it");
}

#[test]
fn a_deletion_does_not_touch_what_was_requested_after_it() {
    let entry = an_entry(State::Done);
    let deletion = deletion(0, 10, 5);
    assert!(!entry.is_untouched_by(&deletion), "an earlier version's");
    assert!(!requested(&entry, &task(1, 3, 5)).is_untouched_by(&deletion));
    assert!(requested(&entry, &task(1, 3, 6)).is_untouched_by(&deletion));
    // In the same partition the clocks do not count.
    assert!(requested(&entry, &task(0, 11, 1)).is_untouched_by(&deletion));
    assert!(!requested(&entry, &task(0, 9, 99)).is_untouched_by(&deletion));
}

#[test]
fn a_deletion_that_is_delivered_again_completes_itself_and_nothing_more() {
    let first = deletion(0, 10, 5);
    let mut entry = deleted_by(&an_entry(State::Working), &first);
    assert!(!entry.is_untouched_by(&first), "its worker may have died");
    entry.deletions[0].done = true;
    assert!(entry.is_untouched_by(&first));
    assert!(!entry.is_untouched_by(&deletion(0, 12, 7)), "another one");
    // The file was sent again, by a command whose clock is behind.
    entry.state = State::Done;
    let entry = requested(&entry, &task(1, 3, 1));
    assert!(entry.is_untouched_by(&first));
}

#[test]
fn a_deletion_through_layra_and_one_of_an_earlier_version_have_only_a_time() {
    let mut entry = an_entry(State::Deleted);
    assert!(entry.is_deleted_after(&task(0, 1, 500)), "unknown");
    entry.finished_at = Some(time(5));
    assert!(entry.is_deleted_after(&task(0, 1, 5)));
    assert!(!entry.is_deleted_after(&task(0, 1, 6)));
    assert!(!entry.is_deletion_requested_after(&task(0, 1, 5)));
    // The state of a document that was sent again does not come from a deletion.
    entry.state = State::Done;
    assert!(!entry.is_deleted_after(&task(0, 1, 5)));
}

#[test]
fn a_knowledge_bases_tombstone_of_an_earlier_version_has_only_a_time() {
    let mut known = DeletedKnowledgeBase {
        id: "u_kb".into(),
        deleted_at: Some(time(5)),
        completed_at: None,
        deletions: vec![deletion(0, 10, 3)],
        completed: Vec::new(),
    };
    let found = |known: &DeletedKnowledgeBase, request: &Sent| {
        let found = known.clone().deletion_after(request, "tasks");
        found.map(|deletion| deletion.at)
    };
    assert_eq!(found(&known, &task(0, 9, 99)), Some(time(3)));
    assert_eq!(found(&known, &task(0, 11, 4)), Some(time(5)));
    assert_eq!(found(&known, &task(0, 11, 6)), None);
    known.deletions.push(deletion(1, 7, 5));
    assert_eq!(found(&known, &task(1, 8, 4)), None, "its offset is known");
    let stored = mongodb::bson::doc! { "_id": "u_kb", "deleted_at": time(5) };
    let read: DeletedKnowledgeBase = mongodb::bson::deserialize_from_document(stored).unwrap();
    assert_eq!(found(&read, &task(0, 1, 5)), Some(time(5)));
}

#[test]
fn a_deletion_of_a_knowledge_base_is_complete_once_it_or_a_later_one_is() {
    let first = deletion(0, 10, 99);
    let mut known = DeletedKnowledgeBase {
        id: "u_kb".into(),
        deleted_at: Some(time(99)),
        completed_at: None,
        deletions: vec![first.clone()],
        completed: Vec::new(),
    };
    assert!(!known.is_complete(&first));
    known.completed.push(first.origin.clone());
    known.completed_at = Some(time(99));
    assert!(known.is_complete(&first));
    assert!(known.is_complete(&deletion(0, 9, 100)), "an earlier one");
    // The clock of the first sender was ahead.
    assert!(!known.is_complete(&deletion(0, 11, 5)));
    assert!(known.is_complete(&deletion(1, 11, 5)), "by their times");
    known.deletions.clear();
    known.completed.clear();
    assert!(
        known.is_complete(&deletion(0, 11, 99)),
        "an earlier version's"
    );
    assert!(!known.is_complete(&deletion(0, 11, 100)));
}

#[test]
fn an_original_is_kept_that_may_have_been_uploaded_after_the_deletion() {
    let mut entry = an_entry(State::Deleted);
    let request = task(0, 3, 5);
    assert!(!entry.is_upload_deleted(&request, time(0)));
    entry.deletions.push(deletion(0, 10, 100_000));
    assert!(entry.is_upload_deleted(&request, time(39_999)));
    assert!(!entry.is_upload_deleted(&request, time(40_000)));
    assert!(!entry.is_upload_deleted(&task(0, 11, 5), time(0)));
}

#[test]
fn an_entry_remembers_its_latest_deletions() {
    let mut entry = an_entry(State::Done);
    for offset in 0..20 {
        entry = deleted_by(&entry, &deletion(0, offset, offset));
        entry = deleted_by(&entry, &deletion(0, offset, offset));
    }
    let offsets: Vec<i64> = entry.deletions.iter().map(|it| it.ends["0"]).collect();
    assert_eq!(offsets, (12..20).collect::<Vec<_>>());
}

proptest! {
    /// In whatever order the messages of a partition are handled, and whatever their clocks say:
    /// a task before a deletion is void, and a deletion leaves a task after it alone.
    #[test]
    fn tasks_and_deletions_of_a_partition_are_in_its_order(
        (sent, deleted) in (0..50_i64, 0..50_i64),
        (sent_at, deleted_at) in (0..9_i64, 0..9_i64),
        state in proptest::sample::select(vec![State::Working, State::Done, State::Failed]),
    ) {
        prop_assume!(sent != deleted);
        let (task, deletion) = (task(0, sent, sent_at), deletion(0, deleted, deleted_at));
        let entry = an_entry(state);
        // The task first.
        let is_kept = requested(&entry, &task).is_untouched_by(&deletion);
        // The deletion first.
        let is_void = deleted_by(&entry, &deletion).is_deleted_after(&task);
        prop_assert_eq!(is_kept, sent > deleted);
        prop_assert_eq!(is_void, sent < deleted);
    }

    /// Anywhere: exactly one of the two happens, so both orders of handling end the same way.
    #[test]
    fn both_orders_of_handling_end_the_same_way(
        (here, there) in (0..3_i32, 0..3_i32),
        (sent, deleted) in (0..50_i64, 0..50_i64),
        (sent_at, deleted_at) in (0..9_i64, 0..9_i64),
        former in proptest::option::of((0..3_i32, 0..50_i64)),
    ) {
        prop_assume!((here, sent) != (there, deleted));
        let (task, last) = (task(here, sent, sent_at), deletion(there, deleted, deleted_at));
        let mut entry = an_entry(State::Done);
        if let Some((partition, offset)) = former {
            // An earlier deletion that the task is not covered by.
            let former = deletion(partition, offset, 0);
            prop_assume!(!former.covers(&task));
            entry.deletions.push(former);
        }
        let is_kept = requested(&entry, &task).is_untouched_by(&last);
        let is_void = deleted_by(&entry, &last).is_deleted_after(&task);
        prop_assert_eq!(is_kept, !is_void);
    }
}
