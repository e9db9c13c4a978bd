//! Order of a page's patches in the vision tower. Blocks of 2 x 2 patches (units) stay together.
//! Towers with windows process the units window by window, so that every window is contiguous and
//! the tower needs no gather.

use super::config::{MERGE, VisionAttention};
use super::image_size::Size;

/// Patches in a unit.
pub(super) const UNIT: usize = MERGE * MERGE;

/// A run of consecutive segments of equal length. Attention stays within each segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segments {
    /// First row.
    pub(super) start: usize,
    /// Number of rows of each segment.
    pub(super) length: usize,
    /// Number of segments.
    pub(super) count: usize,
}

impl Segments {
    /// A single segment.
    pub(super) fn one(start: usize, length: usize) -> Self {
        Self {
            start,
            length,
            count: 1,
        }
    }

    /// Number of rows of all segments.
    pub(super) fn rows(self) -> usize {
        self.length * self.count
    }

    /// First row and number of rows of each segment.
    pub(super) fn each(self) -> impl Iterator<Item = (usize, usize)> {
        (0..self.count).map(move |number| (self.start + number * self.length, self.length))
    }

    /// Appends to `list`, or extends its last entry if that is adjacent and of equal length.
    pub(super) fn push_onto(self, list: &mut Vec<Self>) {
        if let Some(last) = list.last_mut()
            && last.length == self.length
            && last.start + last.rows() == self.start
        {
            last.count += self.count;
        } else {
            list.push(self);
        }
    }
}

/// A page's units in the order of the tower.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Grid {
    /// Number of rows of units.
    pub(super) rows: usize,
    /// Number of columns of units.
    pub(super) columns: usize,
    /// Row and column of each unit, in the tower's order.
    pub(super) order: Vec<(usize, usize)>,
    /// Number of units of each window, in the tower's order; empty if the tower has no windows.
    pub(super) windows: Vec<usize>,
}

impl Grid {
    /// The grid of a resized page, whose sides are multiples of `token` pixels.
    pub(super) fn new(size: Size, token: usize, attention: &VisionAttention) -> Self {
        let (rows, columns) = (size.height / token, size.width / token);
        match attention {
            VisionAttention::Full => {
                let order = (0..rows)
                    .flat_map(|r| (0..columns).map(move |c| (r, c)))
                    .collect();
                Self {
                    rows,
                    columns,
                    order,
                    windows: Vec::new(),
                }
            }
            VisionAttention::Windowed { window, .. } => Self::windowed(rows, columns, *window),
        }
    }

    /// Sorts windows by size, so that windows of equal size form one batch. The order of windows
    /// has no effect on the result.
    fn windowed(rows: usize, columns: usize, window: usize) -> Self {
        let tiles = |length: usize| (0..length).step_by(window);
        let mut all: Vec<Vec<(usize, usize)>> = tiles(rows)
            .flat_map(|top| tiles(columns).map(move |left| (top, left)))
            .map(|(top, left)| {
                let below = (top + window).min(rows);
                let right = (left + window).min(columns);
                (top..below)
                    .flat_map(|r| (left..right).map(move |c| (r, c)))
                    .collect()
            })
            .collect();
        all.sort_by_key(|units| std::cmp::Reverse(units.len()));
        let windows = all.iter().map(Vec::len).collect();
        Self {
            rows,
            columns,
            order: all.concat(),
            windows,
        }
    }

    /// Number of units, which are visual tokens.
    pub(super) fn units(&self) -> usize {
        self.order.len()
    }

    /// Number of patches, which are rows of the tower's input.
    pub(super) fn patches(&self) -> usize {
        self.units() * UNIT
    }

    /// Row and column of each patch, in the tower's order.
    pub(super) fn patch_positions(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.order.iter().flat_map(|&(row, column)| {
            (0..MERGE)
                .flat_map(move |y| (0..MERGE).map(move |x| (row * MERGE + y, column * MERGE + x)))
        })
    }

    /// Index in the tower's order of each unit, row by row.
    pub(super) fn sequence_indices(&self) -> Vec<usize> {
        let mut indices = vec![0; self.units()];
        for (index, &(row, column)) in self.order.iter().enumerate() {
            indices[row * self.columns + column] = index;
        }
        indices
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windowed(rows: usize, columns: usize) -> Grid {
        let attention = VisionAttention::Windowed {
            window: 4,
            full_blocks: Vec::new(),
        };
        Grid::new(
            Size {
                width: columns * 28,
                height: rows * 28,
            },
            28,
            &attention,
        )
    }

    #[test]
    fn ragged_windows_cover_every_unit_once() {
        let grid = windowed(9, 7);
        assert_eq!(grid.windows, [16, 16, 12, 12, 4, 3]);
        let mut units = grid.order.clone();
        units.sort_unstable();
        let all: Vec<_> = (0..9).flat_map(|r| (0..7).map(move |c| (r, c))).collect();
        assert_eq!(units, all);
    }

    #[test]
    fn a_window_holds_neighbours_only() {
        let grid = windowed(9, 7);
        let mut start = 0;
        for length in grid.windows {
            let units = &grid.order[start..start + length];
            let tile = (units[0].0 / 4, units[0].1 / 4);
            assert!(
                units
                    .iter()
                    .all(|(row, column)| (row / 4, column / 4) == tile)
            );
            start += length;
        }
    }

    #[test]
    fn sequence_indices_invert_the_order() {
        let grid = windowed(5, 6);
        for (unit, index) in grid.sequence_indices().into_iter().enumerate() {
            assert_eq!(grid.order[index], (unit / 6, unit % 6));
        }
    }

    #[test]
    fn adjacent_segments_of_equal_length_form_one_run() {
        let mut list = Vec::new();
        for (start, length) in [(0, 64), (64, 64), (128, 16), (144, 64)] {
            Segments::one(start, length).push_onto(&mut list);
        }
        let run = |start, length, count| Segments {
            start,
            length,
            count,
        };
        assert_eq!(list, [run(0, 64, 2), run(128, 16, 1), run(144, 64, 1)]);
    }
}
