//! Compares two collections page by page, by the content of their rows. No I/O.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::stores::milvus::Row;

/// Number and content of some rows, in any order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) rows: u64,
    digest: u64,
}

impl Sum {
    fn add(&mut self, digest: u64) {
        self.rows += 1;
        self.digest = self.digest.wrapping_add(digest);
    }

    fn join(&mut self, other: Self) {
        self.rows += other.rows;
        self.digest = self.digest.wrapping_add(other.digest);
    }
}

/// One of the two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Old,
    New,
}

#[derive(Clone, Debug)]
struct Page {
    file: Arc<str>,
    old: Sum,
    new: Sum,
}

/// All pages of two collections. Takes some 200 bytes a page.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    pages: HashMap<String, Page>,
    files: HashSet<Arc<str>>,
}

/// The pages of one file that differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Difference {
    /// Only in the old collection.
    pub(super) missing: Vec<String>,
    /// Only in the new one.
    pub(super) extra: Vec<String>,
    /// In both, with other rows.
    pub(super) changed: Vec<String>,
    /// The rows of these pages in the new one.
    pub(super) new: Sum,
}

impl Difference {
    /// Whether the new collection lacks pages, and all others are the same.
    pub(super) fn only_misses(&self) -> bool {
        self.extra.is_empty() && self.changed.is_empty()
    }
}

impl Comparison {
    pub(super) fn add(&mut self, side: Side, row: &Row) {
        let file: Arc<str> = self
            .files
            .get(row.file_id.as_str())
            .map_or_else(|| row.file_id.as_str().into(), Arc::clone);
        self.files.insert(Arc::clone(&file));
        if !self.pages.contains_key(&row.image_id) {
            let page = Page {
                file,
                old: Sum::default(),
                new: Sum::default(),
            };
            self.pages.insert(row.image_id.clone(), page);
        }
        if let Some(page) = self.pages.get_mut(&row.image_id) {
            match side {
                Side::Old => page.old.add(row.digest()),
                Side::New => page.new.add(row.digest()),
            }
        }
    }

    /// All files with a row.
    pub(super) fn files(&self) -> Vec<Arc<str>> {
        self.files.iter().map(Arc::clone).collect()
    }

    /// Rows of each file in the new collection.
    pub(super) fn new_rows(&self) -> BTreeMap<Arc<str>, u64> {
        let mut rows = BTreeMap::new();
        for page in self.pages.values().filter(|page| page.new.rows > 0) {
            *rows.entry(Arc::clone(&page.file)).or_default() += page.new.rows;
        }
        rows
    }

    /// The pages that differ, by file.
    pub(super) fn differences(self) -> BTreeMap<Arc<str>, Difference> {
        let mut differences: BTreeMap<Arc<str>, Difference> = BTreeMap::new();
        for (image_id, page) in self.pages {
            if page.old == page.new {
                continue;
            }
            let difference = differences.entry(page.file).or_default();
            difference.new.join(page.new);
            let list = if page.new.rows == 0 {
                &mut difference.missing
            } else if page.old.rows == 0 {
                &mut difference.extra
            } else {
                &mut difference.changed
            };
            list.push(image_id);
        }
        differences
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(pk: i64, image: &str, file: &str, value: f32) -> Row {
        Row {
            pk,
            vector: vec![value; 4],
            image_id: image.into(),
            page: 0,
            file_id: file.into(),
        }
    }

    #[test]
    fn differences_are_found_by_content_and_not_by_order_or_key() {
        let mut comparison = Comparison::default();
        for row in [
            row(1, "a", "f", 0.1),
            row(2, "a", "f", 0.2),
            row(3, "b", "f", 0.3),
            row(4, "c", "f", 0.4),
            row(5, "e", "g", 0.5),
        ] {
            comparison.add(Side::Old, &row);
        }
        for row in [
            row(9, "a", "f", 0.2),
            row(8, "a", "f", 0.1),
            row(7, "c", "f", 0.5),
            row(6, "d", "g", 0.5),
            // Twice.
            row(5, "e", "g", 0.5),
            row(4, "e", "g", 0.5),
        ] {
            comparison.add(Side::New, &row);
        }
        let rows = comparison.new_rows();
        assert_eq!((rows["f"], rows["g"]), (3, 3));
        let found = comparison.differences();
        assert_eq!(found["f"].missing, ["b"]);
        assert_eq!(found["f"].changed, ["c"]);
        assert_eq!(found["g"].extra, ["d"]);
        assert_eq!(found["g"].changed, ["e"]);
        assert_eq!(found["g"].new.rows, 3);
        assert!(!found["f"].only_misses() && !found["g"].only_misses());
        let missing = Difference {
            missing: vec!["b".into()],
            ..Difference::default()
        };
        assert!(missing.only_misses());
    }
}
