//! Writes small PDFs with known text, so that a test knows which page a search must find.

use std::fmt::Write as _;

/// A PDF of A4 pages with one text each, in lines of Helvetica.
#[must_use]
pub fn with_pages(texts: &[&str]) -> Vec<u8> {
    assemble(&objects(texts, "", ""))
}

/// The same with an incompressible picture on each page: 300 x 300 pixels of noise, drawn at 100
/// dots per inch.
#[must_use]
pub fn illustrated(texts: &[&str]) -> Vec<u8> {
    let picture = 4 + 2 * texts.len();
    let resource = format!("/XObject << /Noise {picture} 0 R >>");
    let mut objects = objects(texts, &resource, "q 216 0 0 216 50 50 cm /Noise Do Q ");
    let mut noise = String::new();
    let mut state = 1_u32;
    for _ in 0..3 * 300 * 300 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let _ = write!(noise, "{:02x}", state >> 24);
    }
    objects.push(format!(
        "<< /Type /XObject /Subtype /Image /Width 300 /Height 300 /ColorSpace /DeviceRGB \
         /BitsPerComponent 8 /Filter /ASCIIHexDecode /Length {} >>\nstream\n{noise}>\nendstream",
        noise.len() + 1
    ));
    assemble(&objects)
}

/// The same with bad pages, counted from 0: `broken` ones are no page objects, and `endless` ones
/// compute for minutes.
#[must_use]
pub fn with_bad_pages(texts: &[&str], broken: &[usize], endless: &[usize]) -> Vec<u8> {
    let mut objects = objects(texts, "", "");
    let function = objects.len() + 1;
    for page in broken {
        // The font takes the place of the page.
        let child = format!("{} 0 R", 4 + 2 * page);
        objects[1] = objects[1].replacen(&child, "3 0 R", 1);
    }
    for page in endless {
        let contents = 5 + 2 * page;
        objects[3 + 2 * page] = format!(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 5000 5000] /Contents {contents} 0 R \
             /Resources << /Shading << /S << /ShadingType 1 /ColorSpace /DeviceGray \
             /Domain [0 5000 0 5000] /Function {function} 0 R >> >> >> >>"
        );
        objects[4 + 2 * page] = "<< /Length 5 >>\nstream\n/S sh\nendstream".into();
    }
    let program = format!("{{ add 10000 div {} }}", "sin cos ".repeat(500));
    objects.push(format!(
        "<< /FunctionType 4 /Domain [0 5000 0 5000] /Range [0 1] /Length {} >>\nstream\n{program}\n\
         endstream",
        program.len()
    ));
    assemble(&objects)
}

/// The objects of a document; `resource` and `drawing` are part of every page.
fn objects(texts: &[&str], resource: &str, drawing: &str) -> Vec<String> {
    let mut objects = vec![
        "<< /Type /Catalog /Pages 2 0 R >>".to_owned(),
        format!(
            "<< /Type /Pages /Count {} /Kids [{}] >>",
            texts.len(),
            (0..texts.len())
                .map(|page| format!("{} 0 R", 4 + 2 * page))
                .collect::<Vec<_>>()
                .join(" ")
        ),
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>".to_owned(),
    ];
    for (page, text) in texts.iter().enumerate() {
        objects.push(format!(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] \
             /Resources << /Font << /F1 3 0 R >> {resource} >> /Contents {} 0 R >>",
            5 + 2 * page
        ));
        let stream = format!("{drawing}{}", content(text));
        objects.push(format!(
            "<< /Length {} >>\nstream\n{stream}\nendstream",
            stream.len()
        ));
    }
    objects
}

/// Text in lines of about 80 characters.
fn content(text: &str) -> String {
    let mut stream = "BT /F1 11 Tf 14 TL 50 780 Td".to_owned();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if line.len() + word.len() > 80 {
            let _ = write!(stream, " ({}) Tj T*", escape(&line));
            line.clear();
        }
        line.push_str(word);
        line.push(' ');
    }
    let _ = write!(stream, " ({}) Tj ET", escape(&line));
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

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('(', "\\(")
        .replace(')', "\\)")
}
