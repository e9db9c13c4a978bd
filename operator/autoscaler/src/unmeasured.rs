//! Ready workers whose counts have not been read for a while: nothing is learned from them, and
//! whether they progress is unknown.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::observation::{Phase, Worker};

/// A worker that is busy may miss an answer or two.
const PATIENCE: SignedDuration = SignedDuration::from_mins(1);

/// Since when each ready worker has been unread.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unmeasured(BTreeMap<String, Timestamp>);

impl Unmeasured {
    /// The number of ready workers whose counts have not been read for a minute.
    pub(crate) fn observe(&mut self, now: Timestamp, workers: &[Worker]) -> u32 {
        let unread: BTreeMap<String, Timestamp> = workers
            .iter()
            .filter(|worker| worker.phase == Phase::Ready && worker.counts.is_none())
            .map(|worker| {
                let since = self.0.get(&worker.name).copied().unwrap_or(now);
                // A clock that was set back starts the minute again.
                (worker.name.clone(), since.min(now))
            })
            .collect();
        self.0 = unread;
        let for_long = |since: &&Timestamp| now.duration_since(**since) >= PATIENCE;
        u32::try_from(self.0.values().filter(for_long).count()).unwrap_or(u32::MAX)
    }
}
