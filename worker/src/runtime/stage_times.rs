//! How long the stages have worked on a document. No I/O.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::runtime::failure::Stage;

/// How long the stages have worked on a document, in milliseconds, waits for their servers and for
/// the model included. They run at the same time, so their sum is longer than the work took. What a
/// worker did after its last stored page, before it died, is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct StageTimes {
    /// Fetching the original.
    pub(crate) fetch: u64,
    /// Opening the document and rendering pages.
    pub(crate) render: u64,
    /// Computing vectors.
    pub(crate) embed: u64,
    /// Writing page images to the object store.
    pub(crate) objects: u64,
    /// Writing pages to MongoDB.
    pub(crate) mongodb: u64,
    /// Writing vectors to Milvus.
    pub(crate) milvus: u64,
}

impl StageTimes {
    /// Adds the time of one step. Other stages have no time of their own.
    pub(crate) fn record(&mut self, stage: Stage, time: Duration) {
        let field = match stage {
            Stage::Fetch => &mut self.fetch,
            Stage::Render => &mut self.render,
            Stage::Embed => &mut self.embed,
            Stage::Objects => &mut self.objects,
            Stage::Mongodb => &mut self.mongodb,
            Stage::Milvus => &mut self.milvus,
            Stage::Intake | Stage::DeadLetter | Stage::Model => return,
        };
        let time = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        *field = field.saturating_add(time);
    }

    /// Adds the times of other work on the same document.
    pub(crate) fn add(&mut self, other: Self) {
        for (stage, time) in other.each() {
            self.record(stage, time);
        }
    }

    /// The stages, in their order.
    pub(crate) fn each(&self) -> [(Stage, Duration); 6] {
        [
            (Stage::Fetch, self.fetch),
            (Stage::Render, self.render),
            (Stage::Embed, self.embed),
            (Stage::Objects, self.objects),
            (Stage::Mongodb, self.mongodb),
            (Stage::Milvus, self.milvus),
        ]
        .map(|(stage, ms)| (stage, Duration::from_millis(ms)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_the_same_stage_are_added() {
        let mut times = StageTimes::default();
        times.record(Stage::Render, Duration::from_millis(30));
        times.record(Stage::Render, Duration::from_millis(12));
        times.record(Stage::Intake, Duration::from_secs(9));
        let mut both = StageTimes {
            render: 8,
            milvus: 1,
            ..StageTimes::default()
        };
        both.add(times);
        let expected = StageTimes {
            render: 50,
            milvus: 1,
            ..StageTimes::default()
        };
        assert_eq!(both, expected);
    }
}
