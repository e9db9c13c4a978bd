//! Groups of documents, for example those of one knowledge base. However many documents of a group
//! wait, one place is left for a document of another group.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::Semaphore;

/// The groups that have open or waiting documents.
#[derive(Debug)]
pub(super) struct Groups {
    /// Documents of one group that may be open at the same time.
    each: usize,
    known: Mutex<HashMap<String, Weak<Semaphore>>>,
}

impl Groups {
    /// All groups together have this number of places.
    pub(super) fn sharing(places: usize) -> Self {
        Self {
            each: places.saturating_sub(1).max(1),
            known: Mutex::default(),
        }
    }

    /// The places of a group. They are the same as long as anybody has or waits for one.
    pub(super) fn places_of(&self, group: &str) -> Arc<Semaphore> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, places| places.strong_count() > 0);
        if let Some(places) = known.get(group).and_then(Weak::upgrade) {
            return places;
        }
        let places = Arc::new(Semaphore::new(self.each));
        known.insert(group.to_owned(), Arc::downgrade(&places));
        places
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_leaves_a_place_to_others_and_is_forgotten_when_it_has_none() {
        let groups = Groups::sharing(3);
        let take = |group| groups.places_of(group).try_acquire_owned().ok();
        let held = [take("a"), take("a")];
        assert!(held.iter().all(Option::is_some));
        assert!(take("a").is_none(), "the third place is for others");
        let other = take("b");
        assert!(other.is_some());
        drop(held);
        drop(groups.places_of("c"));
        assert!(take("a").is_some());
        assert_eq!(groups.known.lock().unwrap().len(), 2);
    }

    #[test]
    fn a_single_place_is_for_everybody() {
        assert_eq!(Groups::sharing(1).places_of("a").available_permits(), 1);
    }
}
