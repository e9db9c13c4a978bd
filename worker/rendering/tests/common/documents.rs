//! Builds small files: PDF, ZIP.

use std::fmt::Write as _;
use std::io::Write as _;

/// A page of a PDF to build.
#[derive(Clone)]
pub struct Page {
    pub width: f64,
    pub height: f64,
    /// Further entries of the page's dictionary.
    pub extra: String,
    /// The page's content stream.
    pub content: String,
    /// Further entries of the stream's dictionary.
    pub stream: String,
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
            stream: String::new(),
        }
    }

    /// An empty page of a size in points.
    pub fn of_size(width: f64, height: f64) -> Self {
        Self {
            width,
            height,
            extra: String::new(),
            content: String::new(),
            stream: String::new(),
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
            "<< /Length {} {} >>\nstream\n{content}\nendstream",
            content.len(),
            page.stream
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

/// A part of a ZIP archive to build.
#[derive(Clone)]
pub struct Part {
    pub name: String,
    pub method: u16,
    pub packed: Vec<u8>,
    pub checksum: u32,
    /// Announced length after unpacking.
    pub announced: u32,
}

impl Part {
    pub fn stored(name: &str, content: &[u8]) -> Self {
        Self::new(name, 0, content.to_vec(), content)
    }

    pub fn deflated(name: &str, content: &[u8]) -> Self {
        let level = flate2::Compression::best();
        let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), level);
        encoder.write_all(content).unwrap();
        Self::new(name, 8, encoder.finish().unwrap(), content)
    }

    fn new(name: &str, method: u16, packed: Vec<u8>, content: &[u8]) -> Self {
        let mut checksum = flate2::Crc::new();
        checksum.update(content);
        Self {
            name: name.to_owned(),
            method,
            packed,
            checksum: checksum.sum(),
            announced: content.len().try_into().unwrap(),
        }
    }

    /// Fields that the local header and the central directory share.
    fn description(&self) -> Vec<u8> {
        let packed = u32::try_from(self.packed.len()).unwrap();
        let name = u16::try_from(self.name.len()).unwrap();
        let mut bytes = Vec::new();
        for number in [20, 0, self.method, 0, 0x21] {
            bytes.extend(u16::to_le_bytes(number));
        }
        for number in [self.checksum, packed, self.announced] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(name.to_le_bytes());
        bytes.extend([0, 0]);
        bytes
    }
}

/// A ZIP archive with these parts.
pub fn zip(parts: &[Part]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut directory = Vec::new();
    for part in parts {
        let start = u32::try_from(file.len()).unwrap();
        file.extend(b"PK\x03\x04");
        file.extend(part.description());
        file.extend(part.name.bytes());
        file.extend(&part.packed);
        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(part.description());
        directory.extend([0; 10]);
        directory.extend(start.to_le_bytes());
        directory.extend(part.name.bytes());
    }
    let count = u16::try_from(parts.len()).unwrap();
    let (start, length) = (file.len(), directory.len());
    file.extend(directory);
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend(count.to_le_bytes());
    file.extend(count.to_le_bytes());
    file.extend(u32::try_from(length).unwrap().to_le_bytes());
    file.extend(u32::try_from(start).unwrap().to_le_bytes());
    file.extend([0, 0]);
    file
}
