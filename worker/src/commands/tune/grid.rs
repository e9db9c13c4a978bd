//! The settings that are measured, and the choice among them. Pure.

use layra_crds::{IndexPreset, Readers};
use serde::Serialize;

use crate::stores::milvus::SearchLimits;

/// Candidates that LAYRA asks for; without a parameter `ef` Milvus examines as many.
const LAYRA: SearchLimits = SearchLimits {
    ef: 50,
    candidates: 50,
};
/// What is measured besides.
const EF: [u32; 3] = [50, 100, 200];
const CANDIDATES: [u32; 3] = [20, 50, 100];

/// An index to build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Index {
    pub(super) preset: IndexPreset,
    pub(super) m: u32,
    pub(super) ef_construction: u32,
}

/// One line of the matrix. Times in milliseconds are of both stages of a search, as
/// `layra-worker search` does them, without the model, MongoDB and the wait for the latest writes.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Cell {
    #[serde(flatten)]
    pub(super) index: Index,
    pub(super) ef: u32,
    pub(super) candidates: u32,
    /// The mean over all questions.
    pub(super) recall_at_10: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    /// Pages that the second stage compares, the mean over all questions.
    pub(super) candidate_pages: f64,
    /// Seconds until the index of the copy was built.
    pub(super) build_seconds: f64,
}

/// The presets, smallest first: the chosen ones, or all.
pub(super) fn indexes(chosen: &[IndexPreset]) -> Vec<Index> {
    let presets = [
        IndexPreset::Economy,
        IndexPreset::Balanced,
        IndexPreset::Accurate,
        IndexPreset::Maximum,
    ];
    let presets = presets.into_iter();
    let presets = presets.filter(|preset| chosen.is_empty() || chosen.contains(preset));
    presets
        .map(|preset| {
            let (m, ef_construction) = preset.values();
            Index {
                preset,
                m,
                ef_construction,
            }
        })
        .collect()
}

/// The settings of a search to measure: LAYRA's own, and others of which no two are the same search.
pub(super) fn searches() -> Vec<SearchLimits> {
    let all = CANDIDATES
        .iter()
        .flat_map(|candidates| EF.map(|ef| (ef, *candidates)))
        .filter(|(ef, candidates)| ef >= candidates);
    let mut all: Vec<SearchLimits> = all
        .map(|(ef, candidates)| SearchLimits { ef, candidates })
        .collect();
    if !all.contains(&LAYRA) {
        all.push(LAYRA);
    }
    all
}

/// The smallest index with which a search reaches the wanted recall, and of its searches the one
/// with the fewest candidates, then the smallest `ef`. LAYRA's readers search with their own
/// settings only.
pub(super) fn choose(cells: &[Cell], wanted: f64, readers: Readers) -> Option<&Cell> {
    let possible = |cell: &&Cell| match readers {
        Readers::Layra => (cell.ef, cell.candidates) == (LAYRA.ef, LAYRA.candidates),
        Readers::Own => true,
    };
    cells
        .iter()
        .filter(possible)
        .filter(|cell| cell.recall_at_10 >= wanted)
        .min_by_key(|cell| {
            let Index {
                m, ef_construction, ..
            } = cell.index;
            (m, ef_construction, cell.candidates, cell.ef)
        })
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn cell(m: u32, ef: u32, candidates: u32, recall_at_10: f64) -> Cell {
        Cell {
            index: Index {
                preset: IndexPreset::Economy,
                m,
                ef_construction: 10 * m,
            },
            ef,
            candidates,
            recall_at_10,
            p50_ms: 1.0,
            p99_ms: 2.0,
            candidate_pages: 5.0,
            build_seconds: 1.0,
        }
    }

    #[test]
    fn the_smallest_index_that_reaches_the_recall_is_chosen() {
        let cells = [
            cell(32, 50, 20, 0.995),
            cell(8, 200, 100, 0.97),
            cell(16, 50, 50, 0.98),
            cell(16, 200, 100, 0.996),
            cell(16, 100, 100, 0.992),
            cell(64, 50, 50, 1.0),
        ];
        let chosen = |wanted, readers| {
            let cell = choose(&cells, wanted, readers)?;
            Some((cell.index.m, cell.ef, cell.candidates))
        };
        assert_eq!(chosen(0.99, Readers::Own), Some((16, 100, 100)));
        assert_eq!(chosen(0.97, Readers::Own), Some((8, 200, 100)));
        assert_eq!(chosen(0.98, Readers::Layra), Some((16, 50, 50)));
        assert_eq!(chosen(0.99, Readers::Layra), Some((64, 50, 50)));
        assert_eq!(choose(&cells[..5], 0.999, Readers::Own), None);
    }

    #[test]
    fn searches_differ_and_layras_own_is_among_them() {
        let searches = searches();
        assert!(searches.contains(&LAYRA));
        for (index, search) in searches.iter().enumerate() {
            assert!(search.ef >= search.candidates, "{search:?} would be raised");
            assert!(!searches[..index].contains(search));
        }
    }

    proptest! {
        #[test]
        fn a_choice_reaches_the_recall_and_no_smaller_index_does(
            cells in vec((0..4_u32, 0..3_usize, 0..3_usize, 0.8_f64..1.0), 0..30),
            wanted in 0.8_f64..1.0,
        ) {
            let cells: Vec<Cell> = cells.into_iter().map(|(size, ef, candidates, recall)| {
                cell(8 << size, EF[ef], CANDIDATES[candidates], recall)
            }).collect();
            let chosen = choose(&cells, wanted, Readers::Own);
            let smaller = |than: u32| {
                let smaller = cells.iter().filter(move |cell| cell.index.m < than);
                smaller.filter(|cell| cell.recall_at_10 >= wanted).count()
            };
            prop_assert!(chosen.is_none_or(|cell| cell.recall_at_10 >= wanted));
            prop_assert_eq!(smaller(chosen.map_or(u32::MAX, |cell| cell.index.m)), 0);
        }
    }
}
