use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::kafka::tracker::{Ticket, Tracker};

const LIMITS: Limits = Limits {
    all: 5,
    each: 4,
    ranges: 2,
};
const FREE: Now = Now {
    held: false,
    waiting: 0,
};

fn partition(number: i32) -> TopicPartition {
    ("tasks".to_owned(), number)
}

fn waiting<M>(message: M, base: &str, partition: TopicPartition, kind: Kind) -> Waiting<M> {
    let owner = if base.is_empty() {
        Owner::Partition(partition.clone())
    } else {
        Owner::KnowledgeBase(base.to_owned())
    };
    Waiting {
        message,
        partition,
        owner,
        kind,
        bytes: 10,
    }
}

fn task(message: u32, base: &str) -> Waiting<u32> {
    waiting(message, base, partition(0), Kind::Task)
}

fn started(turns: &mut Turns<u32>, now: Now) -> Vec<(u32, Turn)> {
    std::iter::from_fn(|| turns.next(now)).collect()
}

fn numbers(started: &[(u32, Turn)]) -> Vec<u32> {
    started.iter().map(|(message, _)| *message).collect()
}

#[test]
fn a_single_file_is_started_at_once_although_another_knowledge_base_has_many() {
    let mut turns = Turns::new(LIMITS);
    for message in 0..2_000 {
        turns.add(task(message, "many"));
    }
    assert_eq!(numbers(&started(&mut turns, FREE)), [0, 1, 2, 3]);
    turns.add(task(9_999, "single"));
    assert_eq!(numbers(&started(&mut turns, FREE)), [9_999]);
}

#[test]
fn knowledge_bases_take_turns_and_the_slow_one_gets_no_more_places() {
    let mut turns = Turns::new(LIMITS);
    for message in 0..6 {
        turns.add(task(message, "a"));
        turns.add(task(100 + message, "b"));
    }
    let mut first = started(&mut turns, FREE);
    assert_eq!(numbers(&first), [0, 100, 1, 101, 2]);
    // `b` is faster: it gets its own places back.
    let (_, turn) = first.remove(1);
    turns.ended(turn);
    assert_eq!(numbers(&started(&mut turns, FREE)), [102]);
}

#[test]
fn page_ranges_leave_places_for_documents() {
    let mut turns = Turns::new(LIMITS);
    for message in 0..6 {
        turns.add(waiting(message, "a", partition(0), Kind::Range));
    }
    assert_eq!(numbers(&started(&mut turns, FREE)), [0, 1]);
    turns.add(task(10, "a"));
    assert_eq!(numbers(&started(&mut turns, FREE)), [10]);
}

#[test]
fn tasks_wait_for_a_quota_and_deletions_and_ranges_do_not() {
    let mut turns = Turns::new(LIMITS);
    turns.add(task(0, "a"));
    turns.add(waiting(1, "a", partition(0), Kind::Other));
    turns.add(waiting(2, "a", partition(0), Kind::Range));
    let held = Now {
        held: true,
        waiting: 0,
    };
    let mut begun = numbers(&started(&mut turns, held));
    begun.sort_unstable();
    assert_eq!(begun, [1, 2]);
    assert_eq!(numbers(&started(&mut turns, FREE)), [0]);
}

#[test]
fn messages_that_wait_for_a_quota_leave_their_places_to_others() {
    let mut turns = Turns::new(LIMITS);
    for message in 0..20 {
        turns.add(task(message, "a"));
    }
    let _begun = started(&mut turns, FREE);
    let now = Now {
        held: false,
        waiting: 3,
    };
    assert_eq!(started(&mut turns, now).len(), 3);
}

#[test]
fn a_message_of_no_knowledge_base_keeps_its_place_in_its_partition() {
    let mut turns = Turns::new(LIMITS);
    for message in 0..5 {
        turns.add(task(message, "a"));
    }
    turns.add(waiting(10, "", partition(0), Kind::Other));
    turns.add(waiting(11, "", partition(1), Kind::Other));
    turns.add(task(20, "b"));
    assert_eq!(numbers(&started(&mut turns, FREE)), [0, 20, 11, 1, 2]);
    let loads = turns.loads("tasks");
    let load = Load {
        messages: 3,
        bytes: 30,
    };
    assert_eq!(loads, BTreeMap::from([(0, load)]));
    let mut removed = turns.remove(Some(&[partition(0)]));
    removed.sort_unstable();
    assert_eq!(removed, [3, 4, 10]);
    assert!(turns.len() == 0 && turns.loads("tasks").is_empty());
}

/// Knowledge base (0: none), partition and kind of a message.
fn any_message() -> impl Strategy<Value = (u8, i32, Kind)> {
    let kind = prop_oneof![
        6 => Just(Kind::Task),
        2 => Just(Kind::Range),
        1 => Just(Kind::Other),
    ];
    (0_u8..5, 0_i32..3, kind)
}

#[derive(Clone, Debug)]
enum Step {
    Add((u8, i32, Kind)),
    Start(bool),
    End(prop::sample::Index),
    Revoke(i32),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => any_message().prop_map(Step::Add),
        8 => prop::bool::weighted(0.1).prop_map(Step::Start),
        6 => any::<prop::sample::Index>().prop_map(Step::End),
        1 => (0_i32..3).prop_map(Step::Revoke),
    ]
}

fn name(base: u8) -> String {
    if base == 0 {
        String::new()
    } else {
        format!("kb{base}")
    }
}

proptest! {
    /// No message is lost or started twice, each knowledge base keeps its order, the limits hold,
    /// nothing waits without need, and a knowledge base with nothing in progress is passed over at
    /// most once by each other one.
    #[test]
    fn turns_are_complete_ordered_limited_and_fair(steps in prop::collection::vec(any_step(), 1..300)) {
        type Lane = (u8, i32, bool);
        let mut turns: Turns<u32> = Turns::new(LIMITS);
        // Model: what waits, by lane; what is in progress.
        let mut waits: BTreeMap<Lane, VecDeque<(u32, i32, Kind)>> = BTreeMap::new();
        let mut running: Vec<(Lane, Turn)> = Vec::new();
        let mut passed_over: HashMap<u8, HashSet<u8>> = HashMap::new();
        let lane_of = |(base, number, kind): (u8, i32, Kind)| -> Lane {
            (base, if base == 0 { number } else { 0 }, kind == Kind::Range)
        };
        let mut message = 0;
        for step in steps {
            match step {
                Step::Add((base, number, kind)) => {
                    let kind = if base == 0 { Kind::Other } else { kind };
                    message += 1;
                    turns.add(waiting(message, &name(base), partition(number), kind));
                    waits.entry(lane_of((base, number, kind))).or_default()
                        .push_back((message, number, kind));
                }
                Step::Start(held) => {
                    let of = |base: u8, number: i32, running: &[(Lane, Turn)]| running.iter()
                        .filter(|(lane, _)| lane.0 == base && (base != 0 || lane.1 == number)).count();
                    let ranges = running.iter().filter(|(lane, _)| lane.2).count();
                    let started = turns.next(Now { held, waiting: 0 });
                    // Lanes with a message that may be started.
                    let mut ready: Vec<(Lane, usize)> = Vec::new();
                    for (lane, queue) in &waits {
                        let index = if lane.0 == 0 {
                            let Some((first, ..)) = queue.front() else { continue };
                            let earlier = waits.values().flatten()
                                .any(|(other, number, _)| *number == lane.1 && other < first);
                            if earlier { continue }
                            Some(0)
                        } else {
                            queue.iter().position(|(_, _, kind)| !held || *kind != Kind::Task)
                        };
                        let fits = of(lane.0, lane.1, &running) < LIMITS.each
                            && !(lane.2 && ranges >= LIMITS.ranges);
                        if let Some(index) = index.filter(|_| fits) {
                            ready.push((*lane, index));
                        }
                    }
                    let Some((number, turn)) = started else {
                        prop_assert!(ready.is_empty() || running.len() >= LIMITS.all);
                        continue;
                    };
                    prop_assert!(running.len() < LIMITS.all);
                    let found = ready.iter()
                        .find(|(lane, index)| waits[lane][*index].0 == number);
                    prop_assert!(found.is_some(), "{} may not be started", number);
                    let (lane, index) = *found.unwrap();
                    waits.get_mut(&lane).unwrap().remove(index);
                    if lane.0 != 0 && !held {
                        let others: HashSet<u8> = ready.iter().map(|(other, _)| other.0).collect();
                        for other in others {
                            let idle = of(other, 0, &running) == 0;
                            if other != 0 && other != lane.0 && idle {
                                prop_assert_eq!(of(lane.0, lane.1, &running), 0);
                                let fresh = passed_over.entry(other).or_default().insert(lane.0);
                                prop_assert!(fresh, "{} was passed over twice by {}", other, lane.0);
                            }
                        }
                    }
                    passed_over.remove(&lane.0);
                    running.push((lane, turn));
                }
                Step::End(index) => {
                    if !running.is_empty() {
                        let (_, turn) = running.swap_remove(index.index(running.len()));
                        turns.ended(turn);
                    }
                }
                Step::Revoke(number) => {
                    let mut removed = turns.remove(Some(&[partition(number)]));
                    let mut expected: Vec<u32> = waits.values().flatten()
                        .filter(|(_, of, _)| *of == number).map(|(message, ..)| *message).collect();
                    for queue in waits.values_mut() {
                        queue.retain(|(_, of, _)| *of != number);
                    }
                    removed.sort_unstable();
                    expected.sort_unstable();
                    prop_assert_eq!(removed, expected);
                    passed_over.clear();
                }
            }
            waits.retain(|_, queue| !queue.is_empty());
            prop_assert_eq!(turns.len(), waits.values().map(VecDeque::len).sum::<usize>());
            prop_assert_eq!(turns.loads("tasks").values().map(|load| load.bytes).sum::<usize>(),
                10 * turns.len());
        }
    }

    /// Whatever the order in which messages end, and whenever partitions are revoked: an offset is
    /// committed only when every message below it has ended, and in the end all have.
    #[test]
    fn offsets_are_committed_without_gaps_whatever_the_turns(
        bases in prop::collection::vec((0_u8..4, 0_i32..2), 1..80),
        choices in prop::collection::vec(any::<prop::sample::Index>(), 400),
        revocations in prop::collection::vec((1_usize..300, 0_i32..2), 0..4),
    ) {
        let mut logs: Vec<Vec<u8>> = vec![Vec::new(); 2];
        for (base, number) in bases {
            logs[usize::try_from(number).unwrap()].push(base);
        }
        let tracker = Arc::new(Tracker::default());
        let mut turns: Turns<Ticket> = Turns::new(LIMITS);
        let (mut position, mut committed) = ([0_usize; 2], [0_usize; 2]);
        let mut ended: [HashSet<usize>; 2] = Default::default();
        let mut running: Vec<(Ticket, Turn)> = Vec::new();
        let choice = |step: usize, len: usize| choices[step % choices.len()].index(len);
        let revoke_at: HashMap<usize, i32> = revocations.into_iter().collect();
        for step in 0.. {
            prop_assert!(step < 10_000, "it does not end");
            if let Some(number) = revoke_at.get(&step) {
                let at = usize::try_from(*number).unwrap();
                drop(turns.remove(Some(&[partition(*number)])));
                tracker.forget(&[partition(*number)]);
                position[at] = committed[at];
            }
            let number = choice(step, 2);
            if turns.len() < 20 && let Some(base) = logs[number].get(position[number]) {
                let of = partition(i32::try_from(number).unwrap());
                let offset = i64::try_from(position[number]).unwrap();
                let ticket = tracker.take(of.clone(), offset);
                let kind = if *base == 0 { Kind::Other } else { Kind::Task };
                turns.add(waiting(ticket, &name(*base), of, kind));
                position[number] += 1;
            }
            while let Some(started) = turns.next(FREE) {
                running.push(started);
            }
            if running.len() >= LIMITS.all || (turns.len() == 0 && !running.is_empty()) || step % 3 == 0 {
                if running.is_empty() {
                    if (0..2).all(|number| committed[number] == logs[number].len()) { break }
                    continue;
                }
                let (ticket, turn) = running.swap_remove(choice(step + 1, running.len()));
                turns.ended(turn);
                if ticket.cancel().is_cancelled() {
                    drop(ticket);
                } else {
                    let at = usize::try_from(ticket.partition().1).unwrap();
                    ended[at].insert(usize::try_from(ticket.offset()).unwrap());
                    ticket.done();
                }
            }
            for (of, offset) in tracker.uncommitted() {
                tracker.committed(&of, offset);
                let (at, offset) = (usize::try_from(of.1).unwrap(), usize::try_from(offset).unwrap());
                prop_assert!(offset >= committed[at], "the committed offset fell");
                prop_assert!((0..offset).all(|below| ended[at].contains(&below)));
                committed[at] = offset;
            }
        }
    }
}
