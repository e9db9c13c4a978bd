//! What was measured, for people and as JSON.

use std::io::Write;

use layra_crds::{Readers, VectorType};
use serde::Serialize;

use super::grid::{Cell, Index};
use super::storage::Stored;

/// The result of a run.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    pub(super) knowledge_base: String,
    pub(super) collection: String,
    pub(super) dimensions: usize,
    pub(super) vector_type: VectorType,
    /// Copied pages, without held-out ones.
    pub(super) pages: usize,
    /// Copied vectors.
    pub(super) vectors: u64,
    pub(super) questions: usize,
    pub(super) question_source: QuestionSource,
    pub(super) wanted_recall: f64,
    pub(super) readers: Readers,
    pub(super) cells: Vec<Cell>,
    /// Indexes that this server does not build.
    pub(super) refused: Vec<Refused>,
    /// The cell of the preset to choose; `null` if none reaches the wanted recall.
    pub(super) choice: Option<Cell>,
    /// What other number formats and fewer vectors would cost, by exact computation.
    pub(super) storage: Vec<Stored>,
}

/// Where the questions come from.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum QuestionSource {
    /// A file of questions, embedded by the model.
    File,
    /// Vectors of this number of pages, which are not in the copy.
    HeldOutPages(usize),
}

/// An index that the server refuses.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Refused {
    #[serde(flatten)]
    pub(super) index: Index,
    /// The server's words.
    pub(super) message: String,
}

impl Report {
    /// Writes tables for people.
    pub(crate) fn write(&self, out: &mut impl Write) -> std::io::Result<()> {
        let questions = match self.question_source {
            QuestionSource::File => format!("{} questions of the file", self.questions),
            QuestionSource::HeldOutPages(pages) => format!(
                "{} questions of vectors of {pages} other pages",
                self.questions
            ),
        };
        writeln!(
            out,
            "{}: {} vectors of width {} of {} pages, copied from {}; {questions}\n",
            self.knowledge_base, self.vectors, self.dimensions, self.pages, self.collection
        )?;
        self.write_cells(out)?;
        for Refused { index, message } in &self.refused {
            writeln!(out, "{}: Milvus refuses it: {message}", named(*index))?;
        }
        writeln!(out)?;
        self.write_choice(out)?;
        self.write_storage(out)
    }

    fn write_cells(&self, out: &mut impl Write) -> std::io::Result<()> {
        writeln!(
            out,
            "{:8}  {:>3}  {:>5}  {:>8}  {:>4}  {:>10}  {:>6}  {:>9}  {:>7}  {:>7}",
            "PRESET",
            "M",
            "EFC",
            "BUILD S",
            "EF",
            "CANDIDATES",
            "PAGES",
            "RECALL@10",
            "P50 MS",
            "P99 MS"
        )?;
        for cell in &self.cells {
            let Index {
                preset,
                m,
                ef_construction,
            } = cell.index;
            writeln!(
                out,
                "{:8}  {m:>3}  {ef_construction:>5}  {:>8.1}  {:>4}  {:>10}  {:>6.1}  \
                 {:>9.4}  {:>7.1}  {:>7.1}",
                format!("{preset:?}"),
                cell.build_seconds,
                cell.ef,
                cell.candidates,
                cell.candidate_pages,
                cell.recall_at_10,
                cell.p50_ms,
                cell.p99_ms,
            )?;
        }
        Ok(())
    }

    fn write_choice(&self, out: &mut impl Write) -> std::io::Result<()> {
        let wanted = self.wanted_recall;
        let search = match self.readers {
            Readers::Layra => "LAYRA's search (ef 50, 50 candidates)",
            Readers::Own => "any search of the table",
        };
        let Some(cell) = &self.choice else {
            let best = self.cells.iter().map(|cell| cell.recall_at_10);
            let best = best.fold(0.0, f64::max);
            return writeln!(
                out,
                "no preset reaches a recall of {wanted} with {search}; the best of the table is \
                 {best:.4}"
            );
        };
        writeln!(
            out,
            "chosen for a recall of {wanted} with {search}: {}, which has {:.4} with ef {} and {} \
             candidates",
            named(cell.index),
            cell.recall_at_10,
            cell.ef,
            cell.candidates
        )
    }
}

impl Report {
    fn write_storage(&self, out: &mut impl Write) -> std::io::Result<()> {
        writeln!(
            out,
            "\ncomputed without an index: what the stored vectors would be in other formats\n"
        )?;
        writeln!(
            out,
            "{:10}  {:>10}  {:>12}  {:>12}  {:>9}",
            "VECTORTYPE", "POOLFACTOR", "VECTORS/PAGE", "BYTES/PAGE", "RECALL@10"
        )?;
        for stored in &self.storage {
            writeln!(
                out,
                "{:10}  {:>10}  {:>12.1}  {:>12.0}  {:>9.4}",
                stored.vector_type.as_str(),
                stored.pool_factor,
                stored.vectors_per_page,
                stored.bytes_per_page,
                stored.recall_at_10,
            )?;
        }
        Ok(())
    }
}

fn named(index: Index) -> String {
    let Index {
        preset,
        m,
        ef_construction,
    } = index;
    format!("preset {preset:?} (M {m}, efConstruction {ef_construction})")
}

#[cfg(test)]
mod tests {
    use layra_crds::IndexPreset;

    use super::super::grid;
    use super::*;

    fn report(choice: bool) -> Report {
        let indexes = grid::indexes(&[IndexPreset::Balanced, IndexPreset::Maximum]);
        let (balanced, maximum) = (indexes[0], indexes[1]);
        let cell = Cell {
            index: balanced,
            ef: 50,
            candidates: 50,
            recall_at_10: 0.995,
            p50_ms: 12.34,
            p99_ms: 123.4,
            candidate_pages: 31.0,
            build_seconds: 1.5,
        };
        Report {
            knowledge_base: "alice_manuals".into(),
            collection: "colqwenalice_manuals".into(),
            dimensions: 128,
            vector_type: VectorType::Float32,
            pages: 70,
            vectors: 49_000,
            questions: 100,
            question_source: QuestionSource::HeldOutPages(17),
            wanted_recall: 0.99,
            readers: Readers::Layra,
            choice: choice.then(|| cell.clone()),
            cells: vec![cell],
            refused: vec![Refused {
                index: maximum,
                message: "efConstruction out of range".into(),
            }],
            storage: vec![Stored {
                vector_type: VectorType::BFloat16,
                pool_factor: 3,
                vectors_per_page: 233.3,
                bytes_per_page: 59_733.3,
                recall_at_10: 0.93,
            }],
        }
    }

    fn text(report: &Report) -> String {
        let mut out = Vec::new();
        report.write(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_tables_are_aligned_and_the_choice_says_for_which_search() {
        let text = text(&report(true));
        for words in [
            "49000 vectors of width 128 of 70 pages",
            "100 questions of vectors of 17 other pages",
            "preset Maximum (M 64, efConstruction 1000): Milvus refuses it: efConstruction out of",
            "chosen for a recall of 0.99 with LAYRA's search (ef 50, 50 candidates): preset \
             Balanced (M 16, efConstruction 300), which has 0.9950",
        ] {
            assert!(text.contains(words), "{words}\n{text}");
        }
        let lines: Vec<&str> = text.lines().collect();
        for title in ["PRESET", "VECTORTYPE"] {
            let title = lines.iter().position(|line| line.starts_with(title));
            let (title, row) = (lines[title.unwrap()], lines[title.unwrap() + 1]);
            assert_eq!(title.len(), row.len(), "{title}\n{row}");
        }
    }

    #[test]
    fn without_a_choice_the_best_recall_is_named() {
        let text = text(&report(false));
        assert!(
            text.contains("no preset reaches a recall of 0.99"),
            "{text}"
        );
        assert!(text.contains("the best of the table is 0.9950"), "{text}");
    }

    #[test]
    fn programs_read_numbers_and_the_objects_words() {
        let json = serde_json::to_value(report(true)).unwrap();
        assert_eq!(json["choice"]["preset"], "Balanced");
        assert_eq!(json["choice"]["efConstruction"], 300);
        assert_eq!(json["cells"][0]["recallAt10"], 0.995);
        assert_eq!(json["cells"][0]["p99Ms"], 123.4);
        assert_eq!(json["questionSource"]["heldOutPages"], 17);
        assert_eq!(json["readers"], "Layra");
        assert_eq!(json["refused"][0]["preset"], "Maximum");
        assert_eq!(json["storage"][0]["vectorType"], "BFloat16");
        assert_eq!(json["storage"][0]["bytesPerPage"], 59_733.3);
    }
}
