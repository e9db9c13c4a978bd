//! The two topics and the documents in them. A partition is a queue: messages are processed in
//! order, and committed when processed. A long document is split into ranges over the second topic,
//! as workers do.

use std::collections::VecDeque;

use fastrand::Rng;

use super::trace::{Stall, Trace};

/// The topics and the documents with their progress.
#[derive(Clone, Debug)]
pub(super) struct Queues {
    /// By partition, those of the tasks topic first.
    partitions: Vec<Queue>,
    documents: Vec<Document>,
    topic_size: usize,
    range_pages: u32,
    stalls: Vec<Stall>,
    next_range: usize,
    /// Documents that have arrived so far.
    arrived: usize,
    /// All documents before this one are processed.
    oldest: usize,
    processed: usize,
}

#[derive(Clone, Debug, Default)]
struct Queue {
    messages: VecDeque<Message>,
    committed: i64,
}

#[derive(Clone, Debug)]
struct Message {
    document: usize,
    pages: u32,
    pages_left: f64,
}

#[derive(Clone, Debug)]
struct Document {
    arrived: u32,
    pages: u32,
    partition: usize,
    ranges_left: u32,
    processed_at: Option<u32>,
}

/// Committed offset and end offset of a partition.
pub(super) type Offsets = (i64, i64);

/// A processed message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Finished {
    pub(super) pages: u32,
    /// It was the last message of its document.
    pub(super) ends_document: bool,
}

impl Queues {
    /// Documents without a partition are sent to a random one, the same for the same seed.
    pub(super) fn new(trace: &Trace, partitions: usize, range_pages: u32, seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let documents = trace
            .arrivals
            .iter()
            .map(|arrival| Document {
                arrived: arrival.second,
                pages: arrival.pages,
                partition: arrival
                    .partition
                    .and_then(|named| usize::try_from(named).ok())
                    .unwrap_or_else(|| rng.usize(..partitions))
                    .min(partitions - 1),
                ranges_left: 0,
                processed_at: None,
            })
            .collect();
        Self {
            partitions: vec![Queue::default(); 2 * partitions],
            documents,
            topic_size: partitions,
            range_pages,
            stalls: trace.stalls.clone(),
            next_range: rng.usize(..partitions),
            arrived: 0,
            oldest: 0,
            processed: 0,
        }
    }

    /// Appends the documents that arrive until the end of this second.
    pub(super) fn arrive(&mut self, now: u32) {
        while let Some(document) = self.documents.get(self.arrived)
            && document.arrived <= now
        {
            self.partitions[document.partition]
                .messages
                .push_back(Message::new(self.arrived, document.pages));
            self.arrived += 1;
        }
    }

    /// Whether there is work on which a worker could make progress.
    pub(super) fn has_work(&self, partition: usize, now: u32) -> bool {
        !self.partitions[partition].messages.is_empty() && !self.is_stalled(partition, now)
    }

    /// Processes the first message of a partition with `speed` pages per second for at most
    /// `seconds`. Returns the seconds that it took, and the message if it is complete.
    pub(super) fn work(
        &mut self,
        partition: usize,
        speed: f64,
        seconds: f64,
        now: u32,
    ) -> (f64, Option<Finished>) {
        if self.split(partition) {
            return (0.0, None);
        }
        let Some(message) = self.partitions[partition].messages.front_mut() else {
            return (0.0, None);
        };
        let needed = message.pages_left / speed;
        if needed > seconds {
            message.pages_left -= speed * seconds;
            return (seconds, None);
        }
        (needed, self.finish(partition, now))
    }

    /// Splits a long document into ranges, which completes its own message.
    fn split(&mut self, partition: usize) -> bool {
        let is_long = partition < self.topic_size
            && self.partitions[partition]
                .messages
                .front()
                .is_some_and(|message| message.pages > self.range_pages);
        if !is_long {
            return false;
        }
        let queue = &mut self.partitions[partition];
        let Some(message) = queue.messages.pop_front() else {
            return false;
        };
        queue.committed += 1;
        let mut left = message.pages;
        while left > 0 {
            let pages = left.min(self.range_pages);
            left -= pages;
            self.documents[message.document].ranges_left += 1;
            let to = self.topic_size + self.next_range % self.topic_size;
            self.next_range += 1;
            self.partitions[to]
                .messages
                .push_back(Message::new(message.document, pages));
        }
        true
    }

    fn finish(&mut self, partition: usize, now: u32) -> Option<Finished> {
        let queue = &mut self.partitions[partition];
        let message = queue.messages.pop_front()?;
        queue.committed += 1;
        let document = &mut self.documents[message.document];
        document.ranges_left = document.ranges_left.saturating_sub(1);
        let ends_document = document.ranges_left == 0;
        if ends_document {
            debug_assert!(
                document.processed_at.is_none(),
                "a document is processed once"
            );
            document.processed_at = Some(now + 1);
            self.processed += 1;
        }
        while self
            .documents
            .get(self.oldest)
            .is_some_and(|document| document.processed_at.is_some())
        {
            self.oldest += 1;
        }
        Some(Finished {
            pages: message.pages,
            ends_document,
        })
    }

    fn is_stalled(&self, partition: usize, now: u32) -> bool {
        self.stalls.iter().any(|stall| {
            usize::try_from(stall.partition) == Ok(partition)
                && (stall.from..stall.until).contains(&now)
        })
    }

    /// The offsets of each partition of the tasks topic, and of the ranges topic.
    pub(super) fn offsets(&self) -> (Vec<Offsets>, Vec<Offsets>) {
        let offsets = |queue: &Queue| {
            let waiting = i64::try_from(queue.messages.len()).unwrap_or(i64::MAX);
            (queue.committed, queue.committed + waiting)
        };
        let (tasks, ranges) = self.partitions.split_at(self.topic_size);
        (
            tasks.iter().map(offsets).collect(),
            ranges.iter().map(offsets).collect(),
        )
    }

    /// The lag of the consumer group: unprocessed messages of both topics.
    pub(super) fn lag(&self) -> usize {
        self.partitions
            .iter()
            .map(|queue| queue.messages.len())
            .sum()
    }

    /// Messages of both topics that have been processed so far.
    pub(super) fn committed(&self) -> i64 {
        self.partitions.iter().map(|queue| queue.committed).sum()
    }

    /// Documents that have arrived and are not processed.
    pub(super) fn unprocessed(&self) -> usize {
        self.arrived - self.processed
    }

    /// Whether all documents have arrived and are processed.
    pub(super) fn is_drained(&self) -> bool {
        self.processed == self.documents.len()
    }

    /// When each unprocessed document arrived.
    pub(super) fn arrivals_of_unprocessed(&self) -> impl Iterator<Item = u32> {
        self.documents[self.oldest.min(self.arrived)..self.arrived]
            .iter()
            .filter(|document| document.processed_at.is_none())
            .map(|document| document.arrived)
    }

    /// Seconds for which the oldest unprocessed document has waited at the end of `now`.
    pub(super) fn oldest_wait(&self, now: u32) -> u32 {
        if self.oldest >= self.arrived {
            return 0;
        }
        now + 1 - self.documents[self.oldest].arrived
    }

    /// Seconds that each document waited until it was processed, ascending. An unprocessed one
    /// waited until `end`.
    pub(super) fn waits(&self, end: u32) -> Vec<u32> {
        let wait = |document: &Document| {
            let until = document.processed_at.unwrap_or(end).max(document.arrived);
            until - document.arrived
        };
        let mut waits: Vec<u32> = self.documents.iter().map(wait).collect();
        waits.sort_unstable();
        waits
    }
}

impl Message {
    fn new(document: usize, pages: u32) -> Self {
        Self {
            document,
            pages,
            pages_left: f64::from(pages),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Arrival;

    fn queues(pages: &[u32]) -> Queues {
        let arrivals = pages
            .iter()
            .map(|pages| Arrival {
                second: 0,
                pages: *pages,
                partition: Some(0),
            })
            .collect();
        let trace = Trace {
            arrivals,
            ends: 1,
            ..Trace::default()
        };
        let mut queues = Queues::new(&trace, 2, 64, 1);
        queues.arrive(0);
        queues
    }

    #[test]
    fn a_document_takes_its_pages_divided_by_the_speed() {
        let mut queues = queues(&[10, 3]);
        assert_eq!(queues.work(0, 4.0, 1.0, 0), (1.0, None));
        assert_eq!(queues.work(0, 4.0, 1.0, 1), (1.0, None));
        let (seconds, finished) = queues.work(0, 4.0, 1.0, 2);
        assert!((seconds - 0.5).abs() < 1e-9);
        let expected = Finished {
            pages: 10,
            ends_document: true,
        };
        assert_eq!(finished, Some(expected));
        assert_eq!((queues.lag(), queues.unprocessed()), (1, 1));
        assert_eq!(
            queues.oldest_wait(9),
            10,
            "the second one arrived at second 0, too"
        );
        assert_eq!(queues.waits(100), [3, 100]);
    }

    #[test]
    fn a_long_document_is_processed_with_its_last_range() {
        let mut queues = queues(&[130]);
        assert_eq!(queues.work(0, 4.0, 1.0, 0), (0.0, None));
        let (tasks, ranges) = queues.offsets();
        assert_eq!(tasks, [(1, 1), (0, 0)]);
        let sent: i64 = ranges.iter().map(|(_, end)| end).sum();
        assert_eq!((sent, queues.unprocessed()), (3, 1));
        let mut pages = 0;
        let mut ends = 0;
        for partition in [2, 3, 2, 3] {
            if let (_, Some(finished)) = queues.work(partition, 1e6, 1.0, 5) {
                pages += finished.pages;
                ends += u32::from(finished.ends_document);
            }
        }
        assert_eq!((pages, ends), (130, 1));
        assert!(queues.is_drained());
    }

    #[test]
    fn a_stalled_partition_has_no_work() {
        let mut queues = queues(&[1]);
        queues.stalls.push(Stall {
            partition: 0,
            from: 5,
            until: 9,
        });
        assert!(queues.has_work(0, 4) && !queues.has_work(0, 5));
        assert!(!queues.has_work(0, 8) && queues.has_work(0, 9));
        assert!(!queues.has_work(1, 4));
    }
}
