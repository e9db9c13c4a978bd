//! The documents of the command: PDFs with another text on each page, so that each page has vectors
//! of its own. Pure.

use std::fmt::Write as _;

/// Words of a page.
const WORDS: usize = 80;
/// Letters of a line.
const LINE: usize = 80;

const VOCABULARY: [&str; 48] = [
    "account",
    "bridge",
    "canal",
    "delivery",
    "engine",
    "forest",
    "garden",
    "harbour",
    "island",
    "journey",
    "kitchen",
    "ladder",
    "market",
    "needle",
    "orchard",
    "paper",
    "quarter",
    "river",
    "station",
    "timber",
    "umbrella",
    "valley",
    "window",
    "yellow",
    "zinc",
    "anchor",
    "bottle",
    "copper",
    "desert",
    "eagle",
    "fabric",
    "glass",
    "hammer",
    "insurance",
    "jacket",
    "kettle",
    "lantern",
    "mountain",
    "notebook",
    "oxygen",
    "pepper",
    "quilt",
    "railway",
    "saddle",
    "theatre",
    "urban",
    "violin",
    "winter",
];

/// A PDF of A4 pages. The text of a page depends on the document's name and the page alone.
pub(super) fn pdf(name: &str, pages: u32) -> Vec<u8> {
    let kids: Vec<String> = (0..pages)
        .map(|page| format!("{} 0 R", 4 + 2 * page))
        .collect();
    let mut objects = vec![
        "<< /Type /Catalog /Pages 2 0 R >>".to_owned(),
        format!(
            "<< /Type /Pages /Count {pages} /Kids [{}] >>",
            kids.join(" ")
        ),
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>".to_owned(),
    ];
    for page in 0..pages {
        objects.push(format!(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] \
             /Resources << /Font << /F1 3 0 R >> >> /Contents {} 0 R >>",
            5 + 2 * page
        ));
        let stream = drawing(&text(name, page));
        objects.push(format!(
            "<< /Length {} >>\nstream\n{stream}\nendstream",
            stream.len()
        ));
    }
    assemble(&objects)
}

/// The text of a page: letters, digits and spaces.
fn text(name: &str, page: u32) -> String {
    let mut state = name
        .bytes()
        .chain(page.to_le_bytes())
        .fold(0xcbf2_9ce4_8422_2325_u64, |state, byte| {
            (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    let name = name.replace(|letter: char| !letter.is_ascii_alphanumeric(), " ");
    let mut text = format!("{name} page {}", page + 1);
    for _ in 0..WORDS {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let word = usize::try_from(state >> 33).unwrap_or_default() % VOCABULARY.len();
        text.push(' ');
        text.push_str(VOCABULARY[word]);
    }
    text
}

fn drawing(text: &str) -> String {
    let mut stream = "BT /F1 11 Tf 14 TL 50 780 Td".to_owned();
    let mut line = String::new();
    for word in text.split(' ') {
        if line.len() + word.len() > LINE {
            let _ = write!(stream, " ({line}) Tj T*");
            line.clear();
        }
        line.push_str(word);
        line.push(' ');
    }
    let _ = write!(stream, " ({line}) Tj ET");
    stream
}

fn assemble(objects: &[String]) -> Vec<u8> {
    let mut file = "%PDF-1.4\n".to_owned();
    let mut offsets = Vec::new();
    for (index, object) in objects.iter().enumerate() {
        offsets.push(file.len());
        let _ = write!(file, "{} 0 obj\n{object}\nendobj\n", index + 1);
    }
    let table = file.len();
    let _ = write!(file, "xref\n0 {}\n0000000000 65535 f \n", objects.len() + 1);
    for offset in offsets {
        let _ = writeln!(file, "{offset:010} 00000 n ");
    }
    let _ = write!(
        file,
        "trailer << /Size {} /Root 1 0 R >>\nstartxref\n{table}\n%%EOF\n",
        objects.len() + 1
    );
    file.into_bytes()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_page_has_a_text_of_its_own() {
        let mut texts = BTreeSet::new();
        for name in ["a-00001.pdf", "a-00002.pdf"] {
            for page in 0..50 {
                let words: Vec<String> = text(name, page).split(' ').map(str::to_owned).collect();
                // Without the name and the number, too.
                assert!(texts.insert(words[words.len() - WORDS..].join(" ")));
            }
        }
        assert_eq!(text("a", 3), text("a", 3));
    }

    #[test]
    fn the_table_of_a_document_points_at_its_objects() {
        let file = pdf("a-00001.pdf", 3);
        let text = String::from_utf8(file).unwrap();
        let start: usize = text
            .rsplit("startxref\n")
            .next()
            .and_then(|end| end.lines().next())
            .and_then(|number| number.parse().ok())
            .unwrap();
        let entries: Vec<usize> = text[start..]
            .lines()
            .filter_map(|line| line.strip_suffix(" 00000 n ")?.parse().ok())
            .collect();
        assert_eq!(entries.len(), 3 + 2 * 3);
        for (number, offset) in entries.into_iter().enumerate() {
            let object = format!("{} 0 obj\n", number + 1);
            assert!(text[offset..].starts_with(&object), "{object}");
        }
        assert_eq!(text.matches("/Type /Page ").count(), 3);
    }
}
