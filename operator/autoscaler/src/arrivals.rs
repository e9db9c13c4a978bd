//! When work arrived, from recent end offsets. They show how fast documents arrive and how long
//! each message of the backlog has waited. The lag alone shows neither.

use std::collections::VecDeque;

use jiff::{SignedDuration, Timestamp};

use super::{
    law::Due,
    observation::{Backlog, Partition, PartitionOffsets, Topic},
};

/// End offsets that are kept within the drain target.
const KEPT: i32 = 48;
/// Arrivals are counted in spans of this length.
const SPAN: SignedDuration = SignedDuration::from_secs(30);
/// The rate is computed from at most this many recent spans ...
const SPANS: usize = 10;
/// ... and at least this many.
const FEWEST_SPANS: usize = 2;

/// Recent end offsets and arrivals.
#[derive(Clone, Debug, Default)]
pub(crate) struct Arrivals {
    /// The oldest first.
    kept: VecDeque<EndOffsets>,
    /// The newest, kept or not.
    last: Option<EndOffsets>,
    spans: VecDeque<f64>,
    span_started: Option<Timestamp>,
    in_span: f64,
    last_arrival: Option<Timestamp>,
    /// Something was recorded, by this process.
    has_begun: bool,
    /// How many end offsets of before this process are known.
    recalled: usize,
}

/// The end offsets of both topics at one time, by partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndOffsets {
    /// The time.
    pub at: Timestamp,
    /// The topic with the tasks.
    pub tasks: Vec<i64>,
    /// The topic with the page ranges.
    pub ranges: Vec<i64>,
}

/// A topic has fewer partitions, or an earlier end offset, than at the last observation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TopicRecreated {
    pub(crate) topic: Topic,
}

/// The backlog by age.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Waiting {
    /// The oldest first.
    pub(crate) due: Vec<Due>,
    /// All pages.
    pub(crate) pages: f64,
    /// The oldest message has waited for at least this many seconds.
    pub(crate) oldest_seconds: f64,
}

impl Arrivals {
    /// Records the end offsets. Discards all earlier ones if a topic was recreated or truncated.
    /// The first time it continues with those of before this process, so that a restart gives the
    /// backlog no new deadline.
    pub(crate) fn record(
        &mut self,
        now: Timestamp,
        backlog: &Backlog,
        drain_target: SignedDuration,
    ) -> Result<(), TopicRecreated> {
        let ends =
            |offsets: &[super::PartitionOffsets]| offsets.iter().map(|one| one.end).collect();
        let current = EndOffsets {
            at: now,
            tasks: ends(&backlog.tasks),
            ranges: ends(&backlog.ranges),
        };
        self.recall(&backlog.past, &current, drain_target);
        if let Some(topic) = self
            .last
            .as_ref()
            .and_then(|last| current.recreated_since(last))
        {
            self.forget();
            self.start(current);
            return Err(TopicRecreated { topic });
        }
        self.follow(current, drain_target);
        Ok(())
    }

    /// Discards everything, because of a clock step or a gap between observations.
    pub(crate) fn forget(&mut self) {
        *self = Self {
            has_begun: true,
            recalled: usize::MAX,
            ..Self::default()
        };
    }

    /// Continues with earlier end offsets, as far as they are of the same topics. A slow cluster
    /// returns them little by little, the recent ones first: those that come later only show for how
    /// long the backlog has waited.
    fn recall(&mut self, past: &[EndOffsets], current: &EndOffsets, drain_target: SignedDuration) {
        let is_first = !std::mem::replace(&mut self.has_begun, true);
        if past.len() <= self.recalled {
            return;
        }
        self.recalled = past.len();
        let first = self.kept.front().unwrap_or(current).clone();
        let older = past
            .iter()
            .filter(|ends| ends.at < first.at && first.recreated_since(ends).is_none());
        if is_first {
            for ends in older {
                self.follow(ends.clone(), drain_target);
            }
        } else {
            for ends in older.rev() {
                self.kept.push_front(ends.clone());
            }
        }
    }

    fn follow(&mut self, current: EndOffsets, drain_target: SignedDuration) {
        match self.last.take() {
            None => self.start(current),
            Some(last) => self.extend(current, &last, drain_target),
        }
    }

    fn start(&mut self, current: EndOffsets) {
        self.span_started = Some(current.at);
        self.kept.push_back(current.clone());
        self.last = Some(current);
    }

    fn extend(&mut self, current: EndOffsets, last: &EndOffsets, drain_target: SignedDuration) {
        let arrived = current.documents_since(last);
        self.in_span += arrived;
        if arrived > 0.0 {
            self.last_arrival = Some(current.at);
        }
        while let Some(started) = self.span_started
            && current.at.duration_since(started) >= SPAN
        {
            // Documents of a gap between two observations count for the first span of the gap.
            self.spans.push_back(self.in_span);
            self.in_span = 0.0;
            self.span_started = started.checked_add(SPAN).ok();
        }
        while self.spans.len() > SPANS {
            self.spans.pop_front();
        }
        let spacing = drain_target / KEPT;
        let is_due = self
            .kept
            .back()
            .is_none_or(|kept| current.at.duration_since(kept.at) >= spacing);
        if is_due {
            self.kept.push_back(current.clone());
        }
        // One older than the drain target remains, to show what is overdue.
        while self
            .kept
            .get(1)
            .is_some_and(|second| current.at.duration_since(second.at) > drain_target)
        {
            self.kept.pop_front();
        }
        self.last = Some(current);
    }

    /// Documents that arrive per second: the median of the last spans, so that a burst, which the
    /// backlog already shows, does not count again as a rate. Zero after `quiet` without arrivals.
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

    /// The backlog by age. `pages` is the number of pages of a topic's messages, and `work` the number
    /// of a partition's messages that are to be processed: the oldest, as far as is known.
    pub(crate) fn waiting(
        &self,
        now: Timestamp,
        backlog: &Backlog,
        drain_target: SignedDuration,
        pages: impl Fn(Topic) -> f64,
        work: impl Fn(Partition, PartitionOffsets) -> i64,
    ) -> Waiting {
        let target = drain_target.as_secs_f64();
        let mut waiting = Waiting::default();
        for ends in &self.kept {
            let age = now.duration_since(ends.at).as_secs_f64().max(0.0);
            let older = ends.pages_before(backlog, &pages, &work);
            if older > waiting.pages {
                waiting.pages = older;
                waiting.oldest_seconds = waiting.oldest_seconds.max(age);
                waiting.due.push(Due {
                    pages: older,
                    within: target - age,
                });
            }
        }
        let all: f64 = backlog
            .partitions()
            .map(|(partition, offsets)| work(partition, offsets) as f64 * pages(partition.topic))
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

impl EndOffsets {
    /// The topic that was recreated or truncated since `earlier`, if any.
    fn recreated_since(&self, earlier: &Self) -> Option<Topic> {
        let follows = |now: &[i64], before: &[i64]| {
            now.len() >= before.len() && before.iter().zip(now).all(|(before, now)| before <= now)
        };
        if !follows(&self.tasks, &earlier.tasks) {
            Some(Topic::Tasks)
        } else if !follows(&self.ranges, &earlier.ranges) {
            Some(Topic::Ranges)
        } else {
            None
        }
    }

    fn documents_since(&self, earlier: &Self) -> f64 {
        let before = earlier.tasks.iter().copied().chain(std::iter::repeat(0));
        self.tasks
            .iter()
            .zip(before)
            .map(|(now, before)| (now - before).max(0) as f64)
            .sum()
    }

    /// Pages of the messages before these end offsets that are not processed in `backlog`.
    fn pages_before(
        &self,
        backlog: &Backlog,
        pages: &impl Fn(Topic) -> f64,
        work: &impl Fn(Partition, PartitionOffsets) -> i64,
    ) -> f64 {
        backlog
            .partitions()
            .map(|(partition, offsets)| {
                let ends = match partition.topic {
                    Topic::Tasks => &self.tasks,
                    Topic::Ranges => &self.ranges,
                };
                let index = usize::try_from(partition.number).unwrap_or(usize::MAX);
                let end = ends.get(index).copied().unwrap_or(0).min(offsets.end);
                let before = (end - offsets.next()).max(0);
                before.min(work(partition, offsets)) as f64 * pages(partition.topic)
            })
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: SignedDuration = SignedDuration::from_secs(600);
    const QUIET: SignedDuration = SignedDuration::from_secs(60);

    fn lag(_: Partition, offsets: PartitionOffsets) -> i64 {
        offsets.lag()
    }

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
    fn steady_arrivals_give_their_rate() {
        let mut arrivals = Arrivals::default();
        for second in 0..=300 {
            arrivals
                .record(at(second), &backlog(0, &[second, second]), TARGET)
                .unwrap();
        }
        assert!((rate(&arrivals, 300) - 2.0).abs() < 0.1);
    }

    #[test]
    fn a_burst_does_not_count_as_a_rate() {
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
    fn after_a_while_without_arrivals_the_rate_is_zero() {
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
        let waiting = arrivals.waiting(at(200), &now, TARGET, |_| 2.0, lag);
        assert!((waiting.pages - 52.0).abs() < 1e-9);
        assert!((waiting.oldest_seconds - 200.0).abs() < 1e-9);
        let [old, new] = waiting.due[..] else {
            panic!("{waiting:?}")
        };
        assert!((old.pages - 12.0).abs() < 1e-9 && (old.within - 400.0).abs() < 1e-9);
        assert!((new.pages - 52.0).abs() < 1e-9 && (500.0..=512.5).contains(&new.within));
    }

    #[test]
    fn messages_that_were_processed_early_are_no_work_and_the_oldest_still_are() {
        let mut arrivals = Arrivals::default();
        for (second, end) in [(0, 10), (100, 10), (200, 30)] {
            let backlog = backlog(0, &[end]);
            arrivals.record(at(second), &backlog, TARGET).unwrap();
        }
        let now = backlog(4, &[30]);
        let work = |_, offsets: PartitionOffsets| offsets.lag() - 23;
        let waiting = arrivals.waiting(at(200), &now, TARGET, |_| 1.0, work);
        assert!((waiting.pages - 3.0).abs() < 1e-9);
        assert!((waiting.oldest_seconds - 200.0).abs() < 1e-9);
        assert_eq!(waiting.due.len(), 1);
    }

    fn past(seconds: &[(i64, i64)]) -> std::sync::Arc<[EndOffsets]> {
        let ends = seconds.iter().map(|(second, end)| EndOffsets {
            at: at(*second),
            tasks: vec![*end],
            ranges: Vec::new(),
        });
        ends.collect()
    }

    #[test]
    fn after_a_restart_messages_are_as_old_as_before() {
        let mut arrivals = Arrivals::default();
        let now = Backlog {
            past: past(&[(0, 10), (500, 10), (900, 14), (970, 30)]),
            ..backlog(4, &[30])
        };
        arrivals.record(at(1000), &now, TARGET).unwrap();
        let waiting = arrivals.waiting(at(1000), &now, TARGET, |_| 1.0, lag);
        let due: Vec<(f64, f64)> = waiting.due.iter().map(|d| (d.pages, d.within)).collect();
        assert_eq!(due, [(6.0, -400.0), (10.0, 500.0), (26.0, 570.0)]);
        assert!((waiting.oldest_seconds - 1000.0).abs() < 1e-9);

        // A gap or a clock step is no restart: what this process saw counts.
        arrivals.forget();
        arrivals.record(at(2000), &now, TARGET).unwrap();
        let waiting = arrivals.waiting(at(2000), &now, TARGET, |_| 1.0, lag);
        assert!(waiting.oldest_seconds < 1.0);
    }

    #[test]
    fn the_age_of_the_backlog_may_be_known_late() {
        let mut arrivals = Arrivals::default();
        let read = [(0, 4), (500, 10), (900, 14), (970, 30)];
        let oldest = |from: usize, second: i64, arrivals: &mut Arrivals| {
            let now = Backlog {
                past: past(&read[from..]),
                ..backlog(4, &[30])
            };
            arrivals.record(at(second), &now, TARGET).unwrap();
            let waiting = arrivals.waiting(at(second), &now, TARGET, |_| 1.0, lag);
            waiting.oldest_seconds
        };
        assert!((oldest(4, 1000, &mut arrivals) - 0.0).abs() < 1e-9);
        assert!((oldest(3, 1002, &mut arrivals) - 32.0).abs() < 1e-9);
        assert!((oldest(2, 1004, &mut arrivals) - 104.0).abs() < 1e-9);
        assert!((oldest(0, 1006, &mut arrivals) - 506.0).abs() < 1e-9);
        assert!((oldest(0, 1008, &mut arrivals) - 508.0).abs() < 1e-9);
    }

    #[test]
    fn after_a_restart_the_rate_of_arrivals_is_known_at_once() {
        let mut arrivals = Arrivals::default();
        let steps: Vec<(i64, i64)> = (0..10).map(|step| (step * 30, step * 60)).collect();
        let now = Backlog {
            past: past(&steps),
            ..backlog(0, &[600])
        };
        arrivals.record(at(300), &now, TARGET).unwrap();
        assert!((rate(&arrivals, 300) - 2.0).abs() < 0.1);
    }

    #[test]
    fn end_offsets_of_a_topic_that_was_recreated_meanwhile_do_not_count() {
        let mut arrivals = Arrivals::default();
        let now = Backlog {
            past: past(&[(0, 500), (90, 20)]),
            ..backlog(0, &[30])
        };
        arrivals.record(at(100), &now, TARGET).unwrap();
        let waiting = arrivals.waiting(at(100), &now, TARGET, |_| 1.0, lag);
        assert!((waiting.oldest_seconds - 10.0).abs() < 1e-9);
    }

    #[test]
    fn a_recreated_topic_is_detected() {
        let mut arrivals = Arrivals::default();
        arrivals.record(at(0), &backlog(0, &[10]), TARGET).unwrap();
        let recreated = arrivals.record(at(2), &backlog(0, &[3]), TARGET);
        let topic = Topic::Tasks;
        assert_eq!(recreated, Err(TopicRecreated { topic }));
        arrivals.record(at(4), &backlog(0, &[3]), TARGET).unwrap();
    }

    #[test]
    fn added_partitions_do_not_count_as_a_recreated_topic() {
        let mut arrivals = Arrivals::default();
        arrivals.record(at(0), &backlog(0, &[10]), TARGET).unwrap();
        let more = backlog(0, &[10, 2]);
        assert_eq!(arrivals.record(at(2), &more, TARGET), Ok(()));
    }
}
