//! Small PDF files made on the spot.

use std::fmt::Write as _;

/// One page of a PDF that is being made.
#[derive(Clone)]
pub struct Page {
    pub width: f64,
    pub height: f64,
    /// Further entries of the page's dictionary.
    pub extra: String,
    /// The page's content stream.
    pub content: String,
}

impl Page {
    /// A Letter page with lines of text in Helvetica.
    pub fn with_text(lines: &[&str]) -> Self {
        let mut content = String::from("BT /F1 18 Tf 72 700 Td 24 TL\n");
        for line in lines {
            writeln!(content, "({line}) Tj T*").unwrap();
        }
        content.push_str("ET");
        Self {
            width: 612.0,
            height: 792.0,
            extra: String::new(),
            content,
        }
    }

    /// An empty page of a size in points.
    pub fn of_size(width: f64, height: f64) -> Self {
        Self {
            width,
            height,
            extra: String::new(),
            content: String::new(),
        }
    }

    pub fn extra(mut self, extra: &str) -> Self {
        extra.clone_into(&mut self.extra);
        self
    }
}

/// A PDF 1.4 file with these pages, uncompressed, with a correct cross-reference table.
pub fn pdf(pages: &[Page]) -> Vec<u8> {
    let kids: Vec<String> = (0..pages.len())
        .map(|page| format!("{} 0 R", 4 + 2 * page))
        .collect();
    let mut objects = vec![
        "<< /Type /Catalog /Pages 2 0 R >>".to_owned(),
        format!(
            "<< /Type /Pages /Kids [{}] /Count {} >>",
            kids.join(" "),
            pages.len()
        ),
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>".to_owned(),
    ];
    for (index, page) in pages.iter().enumerate() {
        objects.push(format!(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {} {}] /Contents {} 0 R \
             /Resources << /Font << /F1 3 0 R >> >> {} >>",
            page.width,
            page.height,
            5 + 2 * index,
            page.extra
        ));
        let content = &page.content;
        objects.push(format!(
            "<< /Length {} >>\nstream\n{content}\nendstream",
            content.len()
        ));
    }

    let mut file = String::from("%PDF-1.4\n");
    let mut offsets = Vec::new();
    for (index, object) in objects.iter().enumerate() {
        offsets.push(file.len());
        writeln!(file, "{} 0 obj\n{object}\nendobj", index + 1).unwrap();
    }
    let table = file.len();
    writeln!(file, "xref\n0 {}\n0000000000 65535 f ", objects.len() + 1).unwrap();
    for offset in &offsets {
        writeln!(file, "{offset:010} 00000 n ").unwrap();
    }
    let size = objects.len() + 1;
    write!(
        file,
        "trailer\n<< /Size {size} /Root 1 0 R >>\nstartxref\n{table}\n%%EOF\n"
    )
    .unwrap();
    file.into_bytes()
}
