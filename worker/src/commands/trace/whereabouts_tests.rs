use super::*;
use crate::runtime::failure::{Failure, Reason, Stage};
use crate::stores::ledger::an_entry;

const PIPELINE: &str = "rag/contracts";

fn at(seconds: i64) -> DateTime {
    DateTime::from_millis(seconds * 1_000)
}

fn queued(offset: i64, before: u64) -> Queued {
    let position = Origin {
        topic: "tasks".into(),
        partition: 3,
        offset,
    };
    Queued {
        request: position.to_string(),
        position,
        before,
        is_range: false,
        sent_at: Some(at(1)),
    }
}

fn trace(known: Known) -> Trace {
    Trace::of(PIPELINE, "u_f", known, at(1_000))
}

fn of_entry(entry: Entry) -> Known {
    Known {
        entry: Some(entry),
        ..Known::default()
    }
}

fn lines(trace: &Trace) -> String {
    let mut out = Vec::new();
    trace.write(&mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn json(trace: &Trace) -> serde_json::Value {
    serde_json::to_value(trace).unwrap()
}

#[test]
fn a_document_of_which_nothing_is_known_is_unknown() {
    let trace = trace(Known::default());
    assert!(!trace.is_known());
    let expected = serde_json::json!({"fileId": "u_f", "state": "unknown"});
    assert_eq!(json(&trace), expected);
    assert!(lines(&trace).contains("state       unknown: neither"));
}

#[test]
fn a_queued_document_has_its_position_and_the_time_at_the_speed_of_its_partition() {
    let mut known = Known {
        queued: Some(queued(40, 9)),
        ..Known::default()
    };
    let without_speed = trace(known.clone());
    assert_eq!(without_speed.state, Place::Queued);
    assert!(lines(&without_speed).contains(
        "queue       topic tasks, partition 3, offset 40: 9 messages before it; \
         the expected time is not known"
    ));
    // Four documents in the last 40 s. One of yesterday, and one of a clock that is ahead, say
    // nothing.
    let recently = [1_005, 960, 970, 980, 990, -90_000];
    known.recently_finished = recently.map(at).to_vec();
    let trace = trace(known);
    assert_eq!(json(&trace)["queue"]["expectedSeconds"], 100);
    assert_eq!(json(&trace)["queue"]["messagesBefore"], 9);
    assert!(lines(&trace).contains("at the present speed in 100 s"));
    assert_eq!(speed(&[at(990), at(995)], at(1_000)), None, "too few");
}

#[test]
fn a_document_in_work_has_its_workers_and_their_progress() {
    let mut entry = an_entry(State::Working);
    entry.pages = Some(100);
    entry.range_pages = Some(50);
    let range = |stored, claim: &str| RangeEntry {
        stored,
        rows: 2 * u64::from(stored),
        claim: claim.into(),
        attempts: u32::from(!claim.is_empty()),
        worker: Some("contracts-worker-1".into()),
        claimed_at: Some(at(900)),
        ..RangeEntry::default()
    };
    entry.units.insert("50".into(), range(7, "claim"));
    let done = RangeEntry {
        done: true,
        ..range(50, "claim")
    };
    entry.units.insert("0".into(), done);
    let trace = trace(of_entry(entry));
    assert_eq!(trace.state, Place::InWork);
    let text = lines(&trace);
    let work =
        "work        contracts-worker-1 since 1970-01-01T00:15:00Z: from page 51, 7 of 50 done\n";
    assert!(text.contains(work), "{text}");
    assert!(
        text.contains("pages       57 of 100 stored, 0 skipped, 114 vectors\n"),
        "{text}"
    );
    assert!(trace.notes.is_empty(), "{text}");
}

#[test]
fn a_document_that_no_worker_holds_is_queued_or_will_be_sent_again() {
    let mut entry = an_entry(State::Working);
    entry.pages = Some(100);
    let between = trace(of_entry(entry.clone()));
    assert_eq!(between.state, Place::InWork);
    assert!(between.notes[0].contains("is sent again"), "{between:?}");
    let known = Known {
        queued: Some(Queued {
            is_range: true,
            ..queued(40, 2)
        }),
        recently_finished: vec![at(990); 5],
        ..of_entry(entry.clone())
    };
    let waiting = trace(known);
    assert_eq!(waiting.state, Place::Queued);
    let queue = waiting.queue.unwrap();
    assert_eq!(queue.expected_seconds, None, "ranges have another speed");
    let unread = Known {
        not_read: vec![NotRead::Queue("no leader".into())],
        ..of_entry(entry.clone())
    };
    let notes = trace(unread).notes;
    assert_eq!(notes, ["The queue could not be read: no leader."]);
    entry.pages = None;
    entry.prepared = false;
    entry.no_room_since = Some(at(500));
    assert_eq!(trace(of_entry(entry)).state, Place::WaitingForRoom);
}

#[test]
fn a_done_document_has_its_pages_and_the_times_of_its_stages() {
    let mut entry = an_entry(State::Done);
    entry.pages = Some(3);
    entry.vectors = Some(3);
    entry.requested_at = Some(at(100));
    entry.began_at = Some(at(104));
    entry.finished_at = Some(at(120));
    let times = StageTimes {
        render: 1_500,
        embed: 12_000,
        ..StageTimes::default()
    };
    let range = RangeEntry {
        stored: 3,
        rows: 3,
        done: true,
        times_ms: times,
        ..RangeEntry::default()
    };
    entry.units.insert("0".into(), range);
    let trace = trace(of_entry(entry.clone()));
    let text = lines(&trace);
    for line in [
        "state       done\n",
        "document    a.pdf, in knowledge base u_kb, task u_t\n",
        "pages       3 of 3 stored, 0 skipped, 3 vectors\n",
        "sent        1970-01-01T00:01:40Z\n",
        "begun       1970-01-01T00:01:44Z, 4.0 s after it was sent\n",
        "finished    1970-01-01T00:02:00Z, 16.0 s after it was begun\n",
        "stages      fetch 0.0 s, render 1.5 s, embed 12.0 s, objects 0.0 s, mongodb 0.0 s, milvus 0.0 s\n",
    ] {
        assert!(text.contains(line), "{line}{text}");
    }
    // Of a worker of the version before.
    entry.units.get_mut("0").unwrap().times_ms = StageTimes::default();
    entry.began_at = None;
    let earlier = super::Trace::of(PIPELINE, "u_f", of_entry(entry), at(1_000));
    let json = json(&earlier);
    assert!(json["times"].get("stages").is_none(), "{json}");
    assert_eq!(json["times"]["beganAt"], "1970-01-01T00:00:01Z");
}

#[test]
fn a_message_that_was_just_processed_is_not_queued_again() {
    let mut entry = an_entry(State::Done);
    entry.origin = "tasks/3/40".into();
    let known = |offset| Known {
        queued: Some(queued(offset, 0)),
        ..of_entry(entry.clone())
    };
    assert!(trace(known(40)).queue.is_none());
    let again = trace(known(41));
    assert_eq!(again.state, Place::Done, "it is searchable");
    assert!(again.queue.is_some() && again.notes[0].contains("later task"));
}

#[test]
fn a_dead_letter_has_its_reason_what_to_do_and_the_command() {
    let mut entry = an_entry(State::Failed);
    let failure = Failure::permanent(Stage::Render, Reason::TooManyPages, "9 of 5 pages");
    entry.failure = Some(Rejection {
        letter: true,
        ..Rejection::from(&failure)
    });
    let failed = trace(of_entry(entry.clone()));
    assert_eq!(failed.state, Place::DeadLettered);
    let text = lines(&failed);
    for line in [
        "reason      TooManyPages in stage render: 9 of 5 pages\n",
        "what to do  Raise documents.render.maxPages, then redrive.\n",
        "redrive     kubectl layra run contracts -n rag -- redrive --file u_f\n",
    ] {
        assert!(text.contains(line), "{line}{text}");
    }
    assert!(failed.pages.is_none(), "they were removed");
    let redriven = Known {
        queued: Some(queued(99, 0)),
        ..of_entry(entry)
    };
    assert_eq!(trace(redriven).state, Place::Queued);
    let letter = Letter {
        reason: "InvalidTask".into(),
        message: "`username` is missing".into(),
    };
    let invalid = trace(Known {
        letter: Some(letter),
        ..Known::default()
    });
    assert_eq!(invalid.state, Place::DeadLettered);
    assert!(lines(&invalid).contains("reason      InvalidTask: `username` is missing\n"));
}

#[test]
fn a_file_id_is_quoted_for_the_shell() {
    assert!(redrive(PIPELINE, "a b").ends_with("--file 'a b'"));
    assert!(redrive(PIPELINE, "it's").ends_with(r"--file 'it'\''s'"));
}
