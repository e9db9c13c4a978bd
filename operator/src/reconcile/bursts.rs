//! Merges bursts of triggers: the watches report a rollout pod by pod, and one reconcile for all of
//! them is enough. Unlike the runtime's own debounce, which every trigger pushes back, a burst
//! waits for a second at most.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    time::{Duration, Instant},
};

use futures::{Stream, StreamExt, stream};

/// A burst ends when nothing has been triggered for this long ...
const QUIET: Duration = Duration::from_millis(200);
/// ... or when it has lasted for this long.
const LONGEST: Duration = Duration::from_secs(1);

/// One trigger for each burst of the same.
pub(super) fn merged<K: Hash + Eq + Clone>(
    triggers: impl Stream<Item = K> + Unpin,
) -> impl Stream<Item = K> {
    let state = (triggers, Bursts::default(), VecDeque::new());
    stream::unfold(state, |(mut triggers, mut bursts, mut ended)| async move {
        loop {
            if let Some(key) = ended.pop_front() {
                return Some((key, (triggers, bursts, ended)));
            }
            let end = bursts.next_end();
            tokio::select! {
                key = triggers.next() => bursts.trigger(key?, Instant::now()),
                () = until(end) => ended.extend(bursts.take_ended(Instant::now())),
            }
        }
    })
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

/// The bursts that have not ended, with their first and last trigger.
struct Bursts<K>(HashMap<K, (Instant, Instant)>);

impl<K> Default for Bursts<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Hash + Eq + Clone> Bursts<K> {
    fn trigger(&mut self, key: K, now: Instant) {
        self.0.entry(key).or_insert((now, now)).1 = now;
    }

    fn next_end(&self) -> Option<Instant> {
        self.0.values().map(end).min()
    }

    fn take_ended(&mut self, now: Instant) -> Vec<K> {
        let ended = self.0.extract_if(|_, burst| end(burst) <= now);
        ended.map(|(key, _)| key).collect()
    }
}

fn end((first, last): &(Instant, Instant)) -> Instant {
    (*last + QUIET).min(*first + LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_burst_is_one_trigger_after_it_has_ended() {
        let mut bursts = Bursts::default();
        let start = Instant::now();
        for step in 0..5 {
            bursts.trigger("a", start + step * 100 * MS);
        }
        bursts.trigger("b", start);
        assert_eq!(bursts.next_end(), Some(start + 200 * MS));
        assert_eq!(bursts.take_ended(start + 300 * MS), ["b"]);
        assert_eq!(bursts.take_ended(start + 599 * MS), [""; 0]);
        assert_eq!(bursts.take_ended(start + 600 * MS), ["a"]);
        assert_eq!(bursts.next_end(), None);
    }

    #[test]
    fn triggers_without_a_pause_delay_a_reconcile_by_a_second_at_most() {
        let mut bursts = Bursts::default();
        let start = Instant::now();
        let mut reconciled = 0;
        for step in 0..100 {
            let now = start + step * 50 * MS;
            reconciled += bursts.take_ended(now).len();
            bursts.trigger("a", now);
        }
        assert_eq!(
            reconciled, 4,
            "in five seconds, the last burst has not ended"
        );
    }

    #[tokio::test]
    async fn fifty_events_of_a_rollout_are_one_reconcile() {
        let events = stream::iter((0..50).map(|number| if number == 25 { "b" } else { "a" }));
        let all = events.chain(stream::pending()).boxed();
        let merged = merged(all).take_until(tokio::time::sleep(QUIET * 3));
        let mut reconciled: Vec<&str> = merged.collect().await;
        reconciled.sort_unstable();
        assert_eq!(reconciled, ["a", "b"]);
    }
}
