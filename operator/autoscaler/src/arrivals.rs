//! When work arrived: the end offsets of late. They tell how fast documents arrive and for how long
//! each waiting message has waited, which no consumer's lag alone does.

use std::collections::VecDeque;

use jiff::{SignedDuration, Timestamp};

use super::{
    law::Due,
    observation::{Backlog, Partition, Topic},
};

/// Looks that are kept.
const LOOKS: i32 = 48;
/// Arrivals are counted in spans of this length ...
const SPAN: SignedDuration = SignedDuration::from_secs(30);
/// ... of which so many make the rate.
const SPANS: usize = 10;
/// Fewer do not make a rate.
const FEWEST_SPANS: usize = 2;

/// The end offsets of late.
#[derive(Clone, Debug, Default)]
pub(crate) struct Arrivals {
    looks: VecDeque<Look>,
    /// The newest look, kept or not.
    last: Option<Look>,
    spans: VecDeque<f64>,
    span_began: Option<Timestamp>,
    in_span: f64,
    last_arrival: Option<Timestamp>,
}

#[derive(Clone, Debug)]
struct Look {
    at: Timestamp,
    tasks: Vec<i64>,
    ranges: Vec<i64>,
}

/// A topic that ends before it ended at the last look, or has fewer partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MadeAnew;

/// What waits.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Waiting {
    /// By age, the oldest first.
    pub(crate) due: Vec<Due>,
    /// All pages.
    pub(crate) pages: f64,
    /// For at least so many seconds the oldest message has waited.
    pub(crate) oldest_seconds: f64,
}

impl Arrivals {
    /// Notes the end offsets. Everything is forgotten when a topic was made anew.
    pub(crate) fn record(
        &mut self,
        now: Timestamp,
        backlog: &Backlog,
        drain_target: SignedDuration,
    ) -> Result<(), MadeAnew> {
        let ends =
            |offsets: &[super::PartitionOffsets]| offsets.iter().map(|one| one.end).collect();
        let look = Look {
            at: now,
            tasks: ends(&backlog.tasks),
            ranges: ends(&backlog.ranges),
        };
        if self.last.as_ref().is_some_and(|last| !look.follows(last)) {
            *self = Self::default();
            self.begin(look);
            return Err(MadeAnew);
        }
        match self.last.take() {
            None => self.begin(look),
            Some(last) => self.go_on(look, &last, drain_target),
        }
        Ok(())
    }

    /// Forgets everything, because the clock cannot be trusted or nobody looked for long.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }

    fn begin(&mut self, look: Look) {
        self.span_began = Some(look.at);
        self.looks.push_back(look.clone());
        self.last = Some(look);
    }

    fn go_on(&mut self, look: Look, last: &Look, drain_target: SignedDuration) {
        let arrived = look.documents_since(last);
        self.in_span += arrived;
        if arrived > 0.0 {
            self.last_arrival = Some(look.at);
        }
        while let Some(began) = self.span_began
            && look.at.duration_since(began) >= SPAN
        {
            // Documents that came during a gap between two looks count for the first span of it.
            self.spans.push_back(self.in_span);
            self.in_span = 0.0;
            self.span_began = began.checked_add(SPAN).ok();
        }
        while self.spans.len() > SPANS {
            self.spans.pop_front();
        }
        let spacing = drain_target / LOOKS;
        let is_due = self
            .looks
            .back()
            .is_none_or(|kept| look.at.duration_since(kept.at) >= spacing);
        if is_due {
            self.looks.push_back(look.clone());
        }
        // One look older than the drain target tells what is overdue.
        while self
            .looks
            .get(1)
            .is_some_and(|second| look.at.duration_since(second.at) > drain_target)
        {
            self.looks.pop_front();
        }
        self.last = Some(look);
    }

    /// Documents that arrive a second: the median of the last spans, so that a burst, which the
    /// backlog shows, does not count a second time as a rate. Nothing for `quiet` is no rate.
    pub(crate) fn documents_per_second(&self, now: Timestamp, quiet: SignedDuration) -> f64 {
        let is_quiet = self
            .last_arrival
            .is_none_or(|last| now.duration_since(last) > quiet);
        if is_quiet || self.spans.len() < FEWEST_SPANS {
            return 0.0;
        }
        let mut sorted: Vec<f64> = self.spans.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        } else {
            sorted[middle]
        };
        median / SPAN.as_secs_f64()
    }

    /// What waits, by age. `pages` tells how many a message of a topic has; partitions that `skip`
    /// names do not count.
    pub(crate) fn waiting(
        &self,
        now: Timestamp,
        backlog: &Backlog,
        drain_target: SignedDuration,
        pages: impl Fn(Topic) -> f64,
        skip: impl Fn(Partition) -> bool,
    ) -> Waiting {
        let target = drain_target.as_secs_f64();
        let mut waiting = Waiting::default();
        for look in &self.looks {
            let age = now.duration_since(look.at).as_secs_f64().max(0.0);
            let there = look.pages_of(backlog, &pages, &skip);
            if there > waiting.pages {
                waiting.pages = there;
                waiting.oldest_seconds = waiting.oldest_seconds.max(age);
                waiting.due.push(Due {
                    pages: there,
                    within: target - age,
                });
            }
        }
        let all: f64 = backlog
            .partitions()
            .filter(|(partition, _)| !skip(*partition))
            .map(|(partition, offsets)| offsets.lag() as f64 * pages(partition.topic))
            .sum();
        if all > waiting.pages {
            waiting.pages = all;
            waiting.due.push(Due {
                pages: all,
                within: target,
            });
        }
        waiting
    }
}

impl Look {
    /// Whether this is a later look at the same topics.
    fn follows(&self, earlier: &Self) -> bool {
        let follows = |now: &[i64], before: &[i64]| {
            now.len() >= before.len() && before.iter().zip(now).all(|(before, now)| before <= now)
        };
        follows(&self.tasks, &earlier.tasks) && follows(&self.ranges, &earlier.ranges)
    }

    fn documents_since(&self, earlier: &Self) -> f64 {
        let before = earlier.tasks.iter().copied().chain(std::iter::repeat(0));
        self.tasks
            .iter()
            .zip(before)
            .map(|(now, before)| (now - before).max(0) as f64)
            .sum()
    }

    /// Pages of the messages that were there at this look and are not done now.
    fn pages_of(
        &self,
        backlog: &Backlog,
        pages: &impl Fn(Topic) -> f64,
        skip: &impl Fn(Partition) -> bool,
    ) -> f64 {
        backlog
            .partitions()
            .filter(|(partition, _)| !skip(*partition))
            .map(|(partition, offsets)| {
                let ends = match partition.topic {
                    Topic::Tasks => &self.tasks,
                    Topic::Ranges => &self.ranges,
                };
                let index = usize::try_from(partition.number).unwrap_or(usize::MAX);
                let end = ends.get(index).copied().unwrap_or(0).min(offsets.end);
                (end - offsets.next()).max(0) as f64 * pages(partition.topic)
            })
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PartitionOffsets;

    const TARGET: SignedDuration = SignedDuration::from_secs(600);
    const QUIET: SignedDuration = SignedDuration::from_secs(60);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn backlog(committed: i64, ends: &[i64]) -> Backlog {
        Backlog {
            tasks: ends
                .iter()
                .map(|end| PartitionOffsets {
                    log_start: 0,
                    end: *end,
                    committed: Some(committed),
                })
                .collect(),
            ..Backlog::default()
        }
    }

    fn rate(arrivals: &Arrivals, second: i64) -> f64 {
        arrivals.documents_per_second(at(second), QUIET)
    }

    #[test]
    fn steady_arrivals_make_a_rate() {
        let mut arrivals = Arrivals::default();
        for second in 0..=300 {
            arrivals
                .record(at(second), &backlog(0, &[second, second]), TARGET)
                .unwrap();
        }
        assert!((rate(&arrivals, 300) - 2.0).abs() < 0.1);
    }

    #[test]
    fn a_burst_is_no_rate() {
        let mut arrivals = Arrivals::default();
        for second in 0..=300 {
            let end = if second < 100 { 0 } else { 5000 };
            arrivals
                .record(at(second), &backlog(0, &[end]), TARGET)
                .unwrap();
        }
        assert!(rate(&arrivals, 300).abs() < f64::EPSILON);
    }

    #[test]
    fn after_a_while_without_arrivals_there_is_no_rate() {
        let mut arrivals = Arrivals::default();
        for second in 0..=300 {
            arrivals
                .record(at(second), &backlog(0, &[second.min(200)]), TARGET)
                .unwrap();
        }
        assert!(rate(&arrivals, 255) > 0.9);
        assert!(rate(&arrivals, 300).abs() < f64::EPSILON);
    }

    #[test]
    fn the_age_of_waiting_messages_is_known() {
        let mut arrivals = Arrivals::default();
        for second in 0..=200 {
            let end = if second < 100 { 10 } else { 30 };
            arrivals
                .record(at(second), &backlog(0, &[end]), TARGET)
                .unwrap();
        }
        let now = backlog(4, &[30]);
        let waiting = arrivals.waiting(at(200), &now, TARGET, |_| 2.0, |_| false);
        assert!((waiting.pages - 52.0).abs() < 1e-9);
        assert!((waiting.oldest_seconds - 200.0).abs() < 1e-9);
        let [old, new] = waiting.due[..] else {
            panic!("{waiting:?}")
        };
        assert!((old.pages - 12.0).abs() < 1e-9 && (old.within - 400.0).abs() < 1e-9);
        assert!((new.pages - 52.0).abs() < 1e-9 && (500.0..=512.5).contains(&new.within));
    }

    #[test]
    fn a_topic_that_was_made_anew_is_noticed() {
        let mut arrivals = Arrivals::default();
        arrivals.record(at(0), &backlog(0, &[10]), TARGET).unwrap();
        let anew = arrivals.record(at(2), &backlog(0, &[3]), TARGET);
        assert_eq!(anew, Err(MadeAnew));
        arrivals.record(at(4), &backlog(0, &[3]), TARGET).unwrap();
    }

    #[test]
    fn more_partitions_are_no_new_topic() {
        let mut arrivals = Arrivals::default();
        arrivals.record(at(0), &backlog(0, &[10]), TARGET).unwrap();
        let more = backlog(0, &[10, 2]);
        assert_eq!(arrivals.record(at(2), &more, TARGET), Ok(()));
    }
}
