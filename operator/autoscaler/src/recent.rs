//! The median of the last few measurements: robust against single ones that went wrong, and free
//! of old ones.

use std::collections::VecDeque;

/// Measurements that count.
const KEPT: usize = 5;
/// What an earlier process of the operator learned counts as this many measurements.
const RECALLED: usize = 2;

/// The last few measurements.
#[derive(Clone, Debug)]
pub(crate) struct Recent {
    values: VecDeque<f64>,
    /// Applies until something is measured.
    assumed: f64,
}

impl Recent {
    /// Nothing is measured yet.
    pub(crate) fn assumed(assumed: f64) -> Self {
        Self {
            values: VecDeque::new(),
            assumed,
        }
    }

    /// Continues with the median of an earlier process.
    pub(crate) fn recalled(median: f64) -> Self {
        Self {
            values: VecDeque::from(vec![median; RECALLED]),
            assumed: median,
        }
    }

    pub(crate) fn add(&mut self, value: f64) {
        self.values.push_back(value);
        while self.values.len() > KEPT {
            self.values.pop_front();
        }
    }

    pub(crate) fn median(&self) -> f64 {
        let mut sorted: Vec<f64> = self.values.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.get(middle) {
            None => self.assumed,
            Some(upper) if sorted.len() % 2 == 1 => *upper,
            Some(upper) => f64::midpoint(sorted[middle - 1], *upper),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(mut recent: Recent, values: &[f64]) -> f64 {
        for value in values {
            recent.add(*value);
        }
        recent.median()
    }

    #[test]
    #[expect(clippy::float_cmp, reason = "the values are not computed")]
    fn the_first_measurement_replaces_the_assumption_and_one_outlier_does_not_count() {
        let assumed = || Recent::assumed(120.0);
        assert_eq!(after(assumed(), &[]), 120.0);
        assert_eq!(after(assumed(), &[30.0]), 30.0);
        assert_eq!(after(assumed(), &[30.0, 900.0]), 465.0);
        assert_eq!(after(assumed(), &[30.0, 900.0, 32.0]), 32.0);
        assert_eq!(after(assumed(), &[9e9; 5]), 9e9);
        assert_eq!(after(assumed(), &[9e9, 9e9, 9e9, 30.0, 30.0, 30.0]), 30.0);
    }

    #[test]
    #[expect(clippy::float_cmp, reason = "the values are not computed")]
    fn three_measurements_outweigh_what_was_recalled() {
        let recalled = || Recent::recalled(84_630.0);
        assert_eq!(after(recalled(), &[30.0]), 84_630.0);
        assert_eq!(after(recalled(), &[30.0, 31.0, 32.0]), 32.0);
    }
}
