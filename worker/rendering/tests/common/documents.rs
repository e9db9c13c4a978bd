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
    objects_pdf(&objects)
}

/// A PDF file with these objects, numbered from 1, the first of which is the catalog.
pub fn objects_pdf(objects: &[String]) -> Vec<u8> {
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

/// An image of a TIFF file to build.
#[derive(Clone)]
pub struct TiffImage {
    pub width: u16,
    pub height: u16,
    /// Scheme of the compression; 1 for none.
    pub compression: u16,
    /// The only strip. Uncompressed, it has three bytes for each pixel.
    pub strip: Vec<u8>,
    /// Whether it is a page (0), a reduced version of another image (1) or a mask (4).
    pub kind: u16,
    pub orientation: u16,
}

impl TiffImage {
    /// An uncompressed page.
    pub fn rgb(width: u16, height: u16, rgb: &[u8]) -> Self {
        Self {
            width,
            height,
            compression: 1,
            strip: rgb.to_vec(),
            kind: 0,
            orientation: 1,
        }
    }
}

/// The four kinds of TIFF files: byte order, and width of offsets.
#[derive(Clone, Copy, Debug)]
pub struct TiffLayout {
    pub big_endian: bool,
    pub big: bool,
}

impl TiffLayout {
    pub const ALL: [Self; 4] = [
        Self::new(false, false),
        Self::new(true, false),
        Self::new(false, true),
        Self::new(true, true),
    ];

    const fn new(big_endian: bool, big: bool) -> Self {
        Self { big_endian, big }
    }

    /// A number of 2, 4 or 8 bytes.
    fn number(self, number: u64, bytes: usize) -> Vec<u8> {
        let mut number = number.to_le_bytes()[..bytes].to_vec();
        if self.big_endian {
            number.reverse();
        }
        number
    }

    fn offset(self, offset: usize) -> Vec<u8> {
        self.number(offset as u64, if self.big { 8 } else { 4 })
    }
}

/// A TIFF file with these images.
pub fn tiff(layout: TiffLayout, images: &[TiffImage]) -> Vec<u8> {
    const SHORT: u64 = 3;
    const LONG: u64 = 4;
    let number = |number: u64, bytes| layout.number(number, bytes);
    let mut file = if layout.big_endian { b"MM" } else { b"II" }.to_vec();
    if layout.big {
        file.extend([number(43, 2), number(8, 2), number(0, 2)].concat());
    } else {
        file.extend(number(42, 2));
    }
    // The place of the offset of the next directory.
    let mut link = file.len();
    file.extend(layout.offset(0));
    for image in images {
        let strip = file.len();
        file.extend(&image.strip);
        let depth = file.len();
        file.extend([8, 8, 8].map(|bits| number(bits, 2)).concat());
        let directory = layout.offset(file.len());
        file[link..link + directory.len()].copy_from_slice(&directory);
        let depth = if layout.big {
            // Three numbers of 16 bits fit into the entry.
            let bits = [8, 8, 8, 0].map(|bits| number(bits, 2)).concat();
            (258, SHORT, 3, bits)
        } else {
            (258, SHORT, 3, layout.offset(depth))
        };
        let short = |tag, value: u16| (tag, SHORT, 1, number(value.into(), 2));
        let long = |tag, value: usize| (tag, LONG, 1, number(value as u64, 4));
        let entries: [(u64, u64, u64, Vec<u8>); 11] = [
            (254, LONG, 1, number(image.kind.into(), 4)),
            short(256, image.width),
            short(257, image.height),
            depth,
            short(259, image.compression),
            short(262, 2),
            long(273, strip),
            short(274, image.orientation),
            short(277, 3),
            short(278, image.height),
            long(279, image.strip.len()),
        ];
        let (count_bytes, value_bytes) = if layout.big { (8, 8) } else { (2, 4) };
        file.extend(number(entries.len() as u64, count_bytes));
        for (tag, kind, count, mut value) in entries {
            value.resize(value_bytes, 0);
            file.extend([number(tag, 2), number(kind, 2)].concat());
            file.extend(number(count, value_bytes));
            file.extend(value);
        }
        link = file.len();
        file.extend(layout.offset(0));
    }
    file
}
