//! Rebuilds in a small model of Milvus, killed after any action, while others drop and create the
//! collection.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const NAME: &str = "c";

/// What others do between two actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Nothing,
    /// The process is killed, and the next one looks again.
    Kill,
    /// LAYRA deletes the knowledge base and drops the collection, if its name is there.
    Delete,
    /// A worker of an earlier version creates the collection, if its name is missing, and writes.
    Create,
    /// Somebody writes a row, if the name is there.
    Write,
    /// Somebody drops the unfinished copy.
    DropCopy,
}

/// Collections have rows: numbers.
#[derive(Clone, Debug, Default)]
struct World {
    names: BTreeMap<String, i64>,
    rows: BTreeMap<i64, BTreeSet<u32>>,
    next_id: i64,
    next_row: u32,
    /// Rows that were acknowledged.
    written: BTreeSet<u32>,
    deleted: bool,
    copy_was_dropped: bool,
    ended: Option<End>,
}

impl World {
    fn create(&mut self, name: &str) {
        self.next_id += 1;
        self.names.insert(name.to_owned(), self.next_id);
        self.rows.insert(self.next_id, BTreeSet::new());
    }

    fn write(&mut self) {
        if let Some(id) = self.names.get(NAME) {
            self.next_row += 1;
            self.rows.get_mut(id).unwrap().insert(self.next_row);
            self.written.insert(self.next_row);
        }
    }

    fn rename(&mut self, from: &str, to: &str) -> bool {
        // As Milvus: refused if the new name is taken.
        if self.names.contains_key(to) || !self.names.contains_key(from) {
            return false;
        }
        let id = self.names.remove(from).unwrap();
        self.names.insert(to.to_owned(), id);
        true
    }

    fn find(&self, rebuild: &Rebuild) -> Found {
        let id = |name: &str| self.names.get(name).copied();
        Found {
            current: id(NAME),
            new: id(&rebuild.new_name()),
            old: id(&rebuild.old_name()),
            others: (0..rebuild.others)
                .map(|number| id(&rebuild.other_name(number)))
                .collect(),
            is_outdated: false,
            is_unwanted: self.deleted,
        }
    }

    fn copy(&mut self, from: &str, to: &str) {
        let rows = self.names.get(from).map(|id| self.rows[id].clone());
        if let (Some(rows), Some(to)) = (rows, self.names.get(to)) {
            self.rows.get_mut(to).unwrap().extend(rows);
        }
    }

    /// `false`: the request fails, and the process looks again.
    fn perform(&mut self, rebuild: &mut Rebuild, action: Action) -> bool {
        match action {
            Action::Create => {
                if !self.names.contains_key(&rebuild.new_name()) {
                    self.create(&rebuild.new_name());
                }
            }
            Action::RecordNew => rebuild.new_id = self.names.get(&rebuild.new_name()).copied(),
            Action::Fill | Action::CatchUp => self.copy(NAME, &rebuild.new_name()),
            Action::Enter(phase) => rebuild.phase = phase,
            Action::StartOver => match self.names.get(NAME) {
                Some(id) => {
                    rebuild.old_id = *id;
                    rebuild.new_id = None;
                    rebuild.restarts += 1;
                    rebuild.phase = Phase::Filling;
                }
                None => return false,
            },
            Action::MoveOld => return self.rename(NAME, &rebuild.old_name()),
            Action::MoveNew => return self.rename(&rebuild.new_name(), NAME),
            Action::PutBack => return self.rename(&rebuild.old_name(), NAME),
            Action::CountOther => rebuild.others += 1,
            Action::MoveOther(number) => return self.rename(NAME, &rebuild.other_name(number)),
            Action::Settle => {
                self.copy(&rebuild.old_name(), NAME);
                for number in 0..rebuild.others {
                    self.copy(&rebuild.other_name(number), NAME);
                }
            }
            Action::DropCurrent => drop(self.names.remove(NAME)),
            Action::DropNew => drop(self.names.remove(&rebuild.new_name())),
            Action::DropOld => drop(self.names.remove(&rebuild.old_name())),
            Action::DropOther(number) => drop(self.names.remove(&rebuild.other_name(number))),
            Action::End(end) => self.ended = Some(end),
        }
        true
    }

    fn happen(&mut self, event: Event, rebuild: &Rebuild) {
        match event {
            Event::Nothing | Event::Kill => {}
            Event::Write => self.write(),
            Event::Delete => {
                self.names.remove(NAME);
                self.deleted = true;
            }
            Event::Create => {
                if !self.deleted && !self.names.contains_key(NAME) {
                    self.create(NAME);
                    self.write();
                }
            }
            Event::DropCopy => {
                if !self.copy_was_dropped {
                    self.names.remove(&rebuild.new_name());
                    self.copy_was_dropped = true;
                }
            }
        }
    }
}

/// Runs a rebuild to its end; `events` happen after its actions, one each.
fn run(events: &[Event]) -> World {
    let mut world = World::default();
    world.create(NAME);
    world.write();
    let mut rebuild = Rebuild::new(NAME, Phase::Filling, world.names[NAME]);
    let mut events = events.iter();
    for _look in 0..200 {
        let found = world.find(&rebuild);
        for action in next(&rebuild, &found) {
            let worked = world.perform(&mut rebuild, action);
            let event = *events.next().unwrap_or(&Event::Nothing);
            if world.ended.is_none() {
                world.happen(event, &rebuild);
            }
            if !worked || event == Event::Kill || world.ended.is_some() {
                break;
            }
        }
        if world.ended.is_some() {
            return world;
        }
    }
    panic!("the rebuild does not end: {rebuild:?}, {world:?}");
}

fn assert_whole(world: &World) {
    let left: Vec<&String> = world.names.keys().filter(|name| *name != NAME).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    if world.deleted {
        assert!(!world.names.contains_key(NAME), "brought back");
    } else {
        assert_eq!(world.ended, Some(End::Done));
        assert_eq!(world.rows[&world.names[NAME]], world.written);
    }
}

#[test]
fn an_undisturbed_rebuild_ends_with_every_row() {
    let world = run(&[]);
    assert_eq!(world.ended, Some(End::Done));
    assert_whole(&world);
}

#[test]
fn what_was_written_before_the_names_change_is_found_when_the_new_collection_serves() {
    let mut world = World::default();
    world.create(NAME);
    let mut rebuild = Rebuild::new(NAME, Phase::Filling, world.names[NAME]);
    // A row after every action, until the very last moment.
    loop {
        for action in next(&rebuild, &world.find(&rebuild)) {
            if action != Action::MoveOld && action != Action::MoveNew {
                world.write();
            }
            assert!(world.perform(&mut rebuild, action));
            if action == Action::MoveNew {
                assert_eq!(world.rows[&world.names[NAME]], world.written);
                return;
            }
        }
    }
}

#[test]
fn a_rebuild_may_be_killed_after_any_action() {
    for first in 0..12 {
        for second in 0..12 {
            let mut events = vec![Event::Nothing; 24];
            events[first] = Event::Kill;
            events[first + second] = Event::Kill;
            assert_whole(&run(&events));
        }
    }
}

#[test]
fn a_collection_that_is_dropped_is_not_brought_back() {
    for moment in 0..12 {
        for killed in 0..12 {
            let mut events = vec![Event::Nothing; 24];
            events[moment] = Event::Delete;
            events[killed + 12] = Event::Kill;
            let world = run(&events);
            assert_whole(&world);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn nothing_is_lost_whatever_happens_in_between(events in prop::collection::vec(
        prop_oneof![
            4 => Just(Event::Nothing), 3 => Just(Event::Kill), 2 => Just(Event::Write),
            1 => Just(Event::Create), 1 => Just(Event::DropCopy),
        ], 0..60))
    {
        assert_whole(&run(&events));
    }

    #[test]
    fn a_deleted_knowledge_base_leaves_nothing(
        events in prop::collection::vec(
            prop_oneof![
                4 => Just(Event::Nothing), 3 => Just(Event::Kill), 1 => Just(Event::Delete),
                1 => Just(Event::Write),
            ], 0..60))
    {
        assert_whole(&run(&events));
    }
}
