//! Packs keys and values of one head into panels, once for all their queries.

#![expect(
    clippy::inline_always,
    reason = "vectorised code must be inlined into its caller"
)]

use pulp::{Simd, WithSimd};

use super::Rows;
use crate::kernels::aligned::Aligned;
use crate::kernels::matrix::PanelWidth;
use crate::kernels::path::Path;

/// Packs the keys of one group in a segment as columns of panels. The last panel is padded with
/// zeros to whole registers.
pub(super) fn pack_keys(
    path: Path,
    rows: &Rows<'_>,
    group: usize,
    (start, length): (usize, usize),
    to: &mut Aligned,
) {
    let attention = &rows.attention;
    let size = attention.head;
    let norm = attention.norms.map(|(_, keys)| keys);
    let (width, lanes) = (path.run(PanelWidth), path.run(Lanes));
    let to = to.first(length.next_multiple_of(lanes) * size);
    let mut rotated = vec![0.0; size];
    for (first, panel) in (0..length).step_by(width).zip(to.chunks_mut(width * size)) {
        let width = panel.len() / size;
        for column in 0..width {
            rotated.fill(0.0);
            if first + column < length {
                let row = start + first + column;
                rows.rotate(row, attention.heads + group, norm, &mut rotated);
            }
            for (value, place) in rotated.iter().zip(panel.chunks_exact_mut(width)) {
                place[column] = *value;
            }
        }
    }
}

/// Packs the values of one group in a segment as panels of their columns. The last panel is padded
/// with zeros to whole registers.
pub(super) fn pack_values(
    path: Path,
    rows: &Rows<'_>,
    group: usize,
    (start, length): (usize, usize),
    to: &mut Aligned,
) {
    let attention = &rows.attention;
    let head = attention.heads + attention.groups + group;
    let (width, lanes) = (path.run(PanelWidth), path.run(Lanes));
    let padded = attention.head.next_multiple_of(lanes);
    let to = to.first(length * padded);
    for (first, panel) in (0..padded)
        .step_by(width)
        .zip(to.chunks_mut(length * width))
    {
        let width = panel.len() / length;
        let columns = width.min(attention.head - first);
        for (key, place) in panel.chunks_exact_mut(width).enumerate() {
            let row = rows.at(start + key, head);
            place[..columns].copy_from_slice(&row[first..first + columns]);
            place[columns..].fill(0.0);
        }
    }
}

/// Returns the number of values of a register.
struct Lanes;

impl WithSimd for Lanes {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) -> usize {
        S::F32_LANES
    }
}
