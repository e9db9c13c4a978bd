//! Observations of a pipeline over time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use futures::TryStreamExt;
use layra_crds::ScalingStatus;
use mongodb::bson::{Document, doc};

use crate::cluster::Scene;
use crate::processes;
use crate::stores::Stores;

/// One observation.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Seconds since the start of the timeline.
    pub second: f64,
    /// Unprocessed tasks as the operator reports them; unknown at first.
    pub lag: Option<i64>,
    /// Desired workers.
    pub desired: i32,
    /// Ready workers.
    pub ready: i32,
    /// Pages stored so far.
    pub pages: u64,
}

/// Samples and scaling decisions, in order.
pub struct Timeline {
    start: Instant,
    /// The samples, oldest first.
    pub samples: Vec<Sample>,
    /// Second and explanation of each scaling decision.
    pub decisions: Vec<(f64, ScalingStatus)>,
    /// Peak memory in bytes of the largest process of each kind, for the product's own processes.
    pub memory: BTreeMap<String, u64>,
}

impl Default for Timeline {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            samples: Vec::new(),
            decisions: Vec::new(),
            memory: BTreeMap::new(),
        }
    }
}

impl Timeline {
    /// Takes a sample and returns it.
    pub async fn sample(
        &mut self,
        scene: &Scene,
        pipeline: &str,
        stores: &Stores,
        knowledge_base: &str,
    ) -> Result<Sample> {
        let status = scene.get(pipeline).await?.status.unwrap_or_default();
        processes::record_peaks(&mut self.memory);
        let second = self.start.elapsed().as_secs_f64();
        let desired = status
            .scaling
            .as_ref()
            .map_or(0, |scaling| scaling.desired_replicas);
        if let Some(scaling) = &status.scaling
            && self
                .decisions
                .last()
                .is_none_or(|(_, last)| last.message != scaling.message)
        {
            self.decisions.push((second, scaling.clone()));
        }
        let sample = Sample {
            second,
            lag: status.lag,
            desired,
            ready: status.ready_replicas.unwrap_or(0),
            pages: stored_pages(stores, knowledge_base).await?,
        };
        self.samples.push(sample.clone());
        Ok(sample)
    }

    /// Pages per second over the last `window`.
    #[must_use]
    pub fn pages_per_second(&self, window: Duration) -> f64 {
        let Some(last) = self.samples.last() else {
            return 0.0;
        };
        let since = last.second - window.as_secs_f64();
        let first = self
            .samples
            .iter()
            .find(|sample| sample.second >= since)
            .unwrap_or(last);
        let seconds = last.second - first.second;
        if seconds > 0.0 {
            (last.pages - first.pages) as f64 / seconds
        } else {
            0.0
        }
    }

    /// Pages per second between the first stored page and the last.
    #[must_use]
    pub fn mean_pages_per_second(&self) -> f64 {
        let Some(last) = self.samples.last() else {
            return 0.0;
        };
        let begin = self.samples.iter().rev().find(|sample| sample.pages == 0);
        let end = self
            .samples
            .iter()
            .find(|sample| sample.pages == last.pages);
        match (begin, end) {
            (Some(begin), Some(end)) if end.second > begin.second => {
                last.pages as f64 / (end.second - begin.second)
            }
            _ => 0.0,
        }
    }
}

/// Pages of a knowledge base that MongoDB lists.
pub async fn stored_pages(stores: &Stores, knowledge_base: &str) -> Result<u64> {
    let files: Vec<Document> = stores
        .mongodb
        .collection::<Document>("files")
        .find(doc! {"knowledge_db_id": knowledge_base})
        .projection(doc! {"images.page_number": 1})
        .await?
        .try_collect()
        .await?;
    Ok(files
        .iter()
        .map(|file| file.get_array("images").map_or(0, Vec::len) as u64)
        .sum())
}
