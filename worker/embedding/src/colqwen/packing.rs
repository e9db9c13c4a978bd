//! Packs pages or queries into a batch without padding: concatenates them and computes the towers'
//! inputs, such as positions, segments and the order of visual tokens. Pure host code.

use super::grid::Segments;
use super::patches::PreparedPage;
use super::tokenizer::Prompts;

/// Input of the vision tower.
pub(super) struct VisionPlan {
    /// Patches of all pages, in the tower's order.
    pub(super) rows: Vec<f32>,
    /// Row and column of each patch.
    pub(super) positions: Vec<(usize, usize)>,
    /// For each patch, the numbers of rows and columns of patches of its page.
    pub(super) sides: Vec<(usize, usize)>,
    /// One segment for each page, in patches.
    pub(super) pages: Vec<Segments>,
    /// One segment for each window, in patches.
    pub(super) windows: Vec<Segments>,
}

/// Input of the text tower.
#[derive(Default)]
pub(super) struct TextPlan {
    /// Ids of the text tokens, in order.
    pub(super) text_ids: Vec<u32>,
    /// For each token, where its input vector comes from.
    pub(super) sources: Vec<Source>,
    /// Time, row and column of each token.
    pub(super) positions: Vec<[usize; 3]>,
    /// Number of tokens of each sequence.
    pub(super) lengths: Vec<usize>,
}

/// Where a token's input vector comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// This entry of the text ids.
    Text(usize),
    /// This row of the vision tower's output.
    Visual(usize),
}

/// Packs pages for both towers.
pub(super) fn pack_pages(pages: &[&PreparedPage], prompts: &Prompts) -> (VisionPlan, TextPlan) {
    let values = pages.iter().map(|page| page.rows.len()).sum();
    let mut vision = VisionPlan {
        rows: Vec::with_capacity(values),
        positions: Vec::new(),
        sides: Vec::new(),
        pages: Vec::new(),
        windows: Vec::new(),
    };
    let mut text = TextPlan::default();
    let mut first_unit = 0;
    for page in pages {
        text.push_page(page, first_unit, prompts);
        first_unit += page.grid.units();
        vision.push(page);
    }
    (vision, text)
}

/// Packs one query.
pub(super) fn pack_query(ids: &[u32]) -> TextPlan {
    let mut text = TextPlan::default();
    text.push_query(ids);
    text
}

/// Packs queries.
pub(super) fn pack_queries(queries: &[Vec<u32>]) -> TextPlan {
    let mut text = TextPlan::default();
    for ids in queries {
        text.push_query(ids);
    }
    text
}

/// Row numbers in the index type of tensors.
pub(super) fn indices(rows: impl IntoIterator<Item = usize>) -> Vec<u32> {
    let index = |row| u32::try_from(row).expect("a batch has fewer than 2^32 rows");
    rows.into_iter().map(index).collect()
}

impl VisionPlan {
    fn push(&mut self, page: &PreparedPage) {
        use super::grid::UNIT;
        let grid = &page.grid;
        let first = self.positions.len();
        let side = super::config::MERGE;
        self.positions.extend(grid.patch_positions());
        let sides = (grid.rows * side, grid.columns * side);
        self.sides.resize(self.positions.len(), sides);
        Segments::one(first, grid.patches()).push_onto(&mut self.pages);
        let mut start = first;
        for units in &grid.windows {
            Segments::one(start, units * UNIT).push_onto(&mut self.windows);
            start += units * UNIT;
        }
        self.rows.extend_from_slice(&page.rows);
    }
}

impl TextPlan {
    fn push_page(&mut self, page: &PreparedPage, first_unit: usize, prompts: &Prompts) {
        let start = self.sources.len();
        let grid = &page.grid;
        let time = self.push_text(&prompts.before_image, 0);
        for (unit, index) in grid.sequence_indices().into_iter().enumerate() {
            let (row, column) = (unit / grid.columns, unit % grid.columns);
            self.sources.push(Source::Visual(first_unit + index));
            self.positions.push([time, time + row, time + column]);
        }
        // Positions of text continue after the image's longer side, not after its tokens.
        self.push_text(&prompts.after_image, time + grid.rows.max(grid.columns));
        self.lengths.push(self.sources.len() - start);
    }

    /// Appends a query as a sequence of its own.
    fn push_query(&mut self, ids: &[u32]) {
        let end = self.push_text(ids, 0);
        self.lengths.push(end);
    }

    /// Appends text at position `time`; returns the position after it.
    fn push_text(&mut self, ids: &[u32], time: usize) -> usize {
        for (offset, &id) in ids.iter().enumerate() {
            self.sources.push(Source::Text(self.text_ids.len()));
            self.text_ids.push(id);
            self.positions.push([time + offset; 3]);
        }
        time + ids.len()
    }

    /// One segment for each sequence.
    pub(super) fn segments(&self) -> Vec<Segments> {
        let mut segments = Vec::new();
        let mut start = 0;
        for &length in &self.lengths {
            Segments::one(start, length).push_onto(&mut segments);
            start += length;
        }
        segments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_one_sequence_with_consecutive_positions() {
        let plan = pack_query(&[7, 8, 9]);
        assert_eq!(plan.text_ids, [7, 8, 9]);
        assert_eq!(plan.positions, [[0; 3], [1; 3], [2; 3]]);
        assert_eq!(plan.segments(), [Segments::one(0, 3)]);
    }

    #[test]
    fn each_query_of_a_batch_begins_at_the_first_position() {
        let plan = pack_queries(&[vec![7, 8], vec![9]]);
        assert_eq!(plan.text_ids, [7, 8, 9]);
        assert_eq!(plan.positions, [[0; 3], [1; 3], [0; 3]]);
        let segments = [Segments::one(0, 2), Segments::one(2, 1)];
        assert_eq!(plan.segments(), segments);
    }
}
