//! What a rebuild beside the collection does next, from what it finds. No I/O.
//!
//! Every action is one request, or can be repeated. So a rebuild that was killed anywhere is
//! continued by looking again. Collections are told apart by Milvus' ids: names change.

use crate::stores::rebuilds::{Phase, Rebuild};

/// The collections under the names of a rebuild, by id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Under the name that everybody uses.
    pub(super) current: Option<i64>,
    pub(super) new: Option<i64>,
    pub(super) old: Option<i64>,
    /// Those that other processes created while the name was missing, by their numbers.
    pub(super) others: Vec<Option<i64>>,
    /// Whether the new collection's index differs from the object's, which was edited meanwhile.
    pub(super) is_outdated: bool,
    /// Whether the collection's knowledge base was deleted since the rebuild began.
    pub(super) is_unwanted: bool,
}

/// One action of a rebuild.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Create the new collection, with its index, and load it.
    Create,
    /// Record the id of the new collection.
    RecordNew,
    /// Copy every row into the new collection, and compare the two.
    Fill,
    /// Record a phase.
    Enter(Phase),
    /// Copy what was written since, right before the names change.
    CatchUp,
    /// Begin again, with another new collection.
    StartOver,
    /// Give the serving collection the old name.
    MoveOld,
    /// Give the new collection the name that everybody uses.
    MoveNew,
    /// Give the old collection its name back.
    PutBack,
    /// Record that another process created a collection while the name was missing.
    CountOther,
    /// Give that collection a name of this rebuild.
    MoveOther(u32),
    /// Bring into the new collection what the old one, and the others, got last.
    Settle,
    DropCurrent,
    DropNew,
    DropOld,
    DropOther(u32),
    /// Forget the rebuild.
    End(End),
}

/// How a rebuild ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The collection serves with the new index.
    Done,
    /// The collection was dropped meanwhile.
    Gone,
}

/// The next actions, in this order. What was found may have changed after any of them.
pub(super) fn next(rebuild: &Rebuild, found: &Found) -> Vec<Action> {
    match rebuild.phase {
        Phase::Filling => filling(rebuild, found),
        Phase::Swapping => swapping(rebuild, found),
        Phase::Settling => settling(rebuild, found),
        // Not beside.
        Phase::InPlace => Vec::new(),
    }
}

fn filling(rebuild: &Rebuild, found: &Found) -> Vec<Action> {
    match found.current {
        None => gone(rebuild),
        Some(id) if id != rebuild.old_id => vec![Action::DropNew, Action::StartOver],
        Some(_) if rebuild.new_id.is_none() => vec![Action::Create, Action::RecordNew],
        Some(_) if found.new != rebuild.new_id || found.is_outdated => {
            vec![Action::DropNew, Action::StartOver]
        }
        Some(_) => vec![Action::Fill, Action::Enter(Phase::Swapping)],
    }
}

fn swapping(rebuild: &Rebuild, found: &Found) -> Vec<Action> {
    let has_old = found.old == Some(rebuild.old_id);
    let has_new = found.new.is_some() && found.new == rebuild.new_id;
    match found.current {
        Some(id) if Some(id) == rebuild.new_id => vec![Action::Enter(Phase::Settling)],
        Some(id) if id == rebuild.old_id && has_new => {
            vec![Action::CatchUp, Action::MoveOld, Action::MoveNew]
        }
        Some(id) if id == rebuild.old_id => vec![Action::StartOver],
        // Somebody created it while the name was missing.
        Some(_) if has_old => {
            let number = rebuild.others;
            vec![Action::CountOther, Action::MoveOther(number)]
        }
        // Somebody dropped the collection and created it again, before any name changed.
        Some(_) => vec![Action::DropNew, Action::StartOver],
        None if has_old && has_new => vec![Action::MoveNew],
        // The new one was dropped by mistake, or what was moved is not the old one but one that
        // was created in its place.
        None if found.old.is_some() && !found.is_unwanted => vec![Action::PutBack],
        None => gone(rebuild),
    }
}

fn settling(rebuild: &Rebuild, found: &Found) -> Vec<Action> {
    if found.current.is_none() || found.current != rebuild.new_id {
        return gone(rebuild);
    }
    let mut actions = if found.is_unwanted {
        vec![Action::DropCurrent]
    } else {
        vec![Action::Settle]
    };
    actions.extend((0..rebuild.others).map(Action::DropOther));
    actions.push(Action::DropOld);
    actions.push(Action::End(if found.is_unwanted {
        End::Gone
    } else {
        End::Done
    }));
    actions
}

/// The collection was dropped meanwhile: it is not brought back.
fn gone(rebuild: &Rebuild) -> Vec<Action> {
    let mut actions = vec![Action::DropNew];
    actions.extend((0..rebuild.others).map(Action::DropOther));
    actions.push(Action::DropOld);
    actions.push(Action::End(End::Gone));
    actions
}

#[cfg(test)]
#[path = "step_tests.rs"]
mod tests;
