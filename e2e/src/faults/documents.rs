//! The documents of a run: most are short, some are split, some cannot be processed.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;

use crate::layra::{Upload, User};
use crate::pdf;

/// What must be left of a document at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// So many pages, searchable.
    Pages(u64),
    /// A dead letter: it cannot be processed.
    DeadLetter,
    /// Nothing: it was deleted.
    Nothing,
}

/// A document that was sent.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) upload: Upload,
    pub(crate) expected: Expected,
    /// Rows of all its pages in Milvus; by default one for each.
    pub(crate) rows: Option<u64>,
    content: Vec<u8>,
    uploaded: Instant,
    /// Keys of originals of this document before it was deleted and uploaded again. A deletion that
    /// is processed after the later upload finds nothing to delete and leaves them.
    earlier_keys: Vec<String>,
}

/// The original of a task that no worker had received stays if it was uploaded less than a minute
/// before the deletion (docs/documents.md): it could be that of a later upload.
const ORIGINAL_STAYS: Duration = Duration::from_mins(1);

impl Sent {
    /// A document whose pages must all be searchable. It is not sent again.
    pub(super) fn with_pages(upload: Upload, pages: u64) -> Self {
        Self {
            upload,
            expected: Expected::Pages(pages),
            rows: None,
            content: Vec::new(),
            uploaded: Instant::now(),
            earlier_keys: Vec::new(),
        }
    }

    pub(super) fn is_deleted(&self) -> bool {
        self.expected == Expected::Nothing
    }

    /// The originals that may exist.
    pub(super) fn known_keys(&self) -> Vec<String> {
        let mut keys = self.earlier_keys.clone();
        if !self.is_deleted() {
            keys.push(self.upload.key.clone());
        }
        keys
    }

    /// Asks for its deletion. What is sent afterwards is later than that.
    pub(crate) async fn request_deletion(&self, user: &User) -> Result<()> {
        let deletion = json!({
            "type": "delete_file",
            "file_id": self.upload.file_id,
            "knowledge_db_id": user.knowledge_base,
        });
        user.send(deletion.to_string().as_bytes()).await?;
        // The order of messages in different partitions is that of their times, in milliseconds.
        tokio::time::sleep(Duration::from_millis(5)).await;
        Ok(())
    }

    /// Another content for the next upload.
    pub(crate) fn change(&mut self, content: Vec<u8>, pages: u64) {
        self.content = content;
        self.expected = Expected::Pages(pages);
        self.rows = None;
    }

    /// Records that its deletion was requested.
    pub(crate) fn delete(&mut self) {
        self.expected = Expected::Nothing;
        if self.uploaded.elapsed() < ORIGINAL_STAYS {
            self.earlier_keys.push(self.upload.key.clone());
        }
    }

    /// Uploads the document again under the same id, with another original.
    pub(crate) async fn upload_again(&mut self, user: &User) -> Result<()> {
        let again = user
            .put(&self.upload.filename, self.content.clone())
            .await?;
        let before = std::mem::replace(&mut self.upload, again);
        self.earlier_keys.push(before.key);
        self.upload.file_id = before.file_id;
        self.uploaded = Instant::now();
        user.send_task(&self.upload).await
    }
}

/// Sends `count` documents.
pub(crate) async fn send_more(
    user: &User,
    sent: &mut Vec<Sent>,
    count: usize,
    random: &mut fastrand::Rng,
) -> Result<()> {
    for _ in 0..count {
        let number = sent.len();
        let document = match random.u32(0..100) {
            0..4 => send_unreadable(user, number, random).await,
            4..7 => send_with_bad_page(user, number, random).await,
            7..90 => send_pages(user, number, random.usize(1..4), random).await,
            90..98 => send_pages(user, number, random.usize(5..20), random).await,
            _ => send_long(user, number, random).await,
        };
        sent.push(document.with_context(|| format!("sending document {number}"))?);
    }
    Ok(())
}

/// Sends a document that is split into several ranges.
pub(super) async fn send_long(
    user: &User,
    number: usize,
    random: &mut fastrand::Rng,
) -> Result<Sent> {
    send_pages(user, number, random.usize(30..60), random).await
}

async fn send_pages(
    user: &User,
    number: usize,
    count: usize,
    random: &mut fastrand::Rng,
) -> Result<Sent> {
    let texts: Vec<String> = (0..count)
        .map(|page| format!("Document {number}, page {page}: {}.", random.u64(..)))
        .collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let name = format!("document-{number}.pdf");
    let expected = Expected::Pages(count as u64);
    send(user, &name, pdf::with_pages(&texts), expected).await
}

/// Sends a document one of whose pages cannot be read.
async fn send_with_bad_page(
    user: &User,
    number: usize,
    random: &mut fastrand::Rng,
) -> Result<Sent> {
    let count = random.usize(3..20);
    let texts: Vec<String> = (0..count)
        .map(|page| format!("Document {number}, page {page}: {}.", random.u64(..)))
        .collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let content = pdf::with_bad_pages(&texts, &[random.usize(0..count)], &[]);
    let expected = Expected::Pages(count as u64 - 1);
    send(user, &format!("document-{number}.pdf"), content, expected).await
}

async fn send_unreadable(user: &User, number: usize, random: &mut fastrand::Rng) -> Result<Sent> {
    let kinds = unreadable();
    let (extension, content) = kinds[random.usize(0..kinds.len())].clone();
    let name = format!("document-{number}.{extension}");
    send(user, &name, content, Expected::DeadLetter).await
}

/// Sends a document with this content.
pub(crate) async fn send(
    user: &User,
    name: &str,
    content: Vec<u8>,
    expected: Expected,
) -> Result<Sent> {
    Ok(Sent {
        upload: user.upload_bytes(name, content.clone()).await?,
        expected,
        rows: None,
        content,
        uploaded: Instant::now(),
        earlier_keys: Vec::new(),
    })
}

/// Files that no worker can read, one of each kind, with their extensions.
fn unreadable() -> Vec<(&'static str, Vec<u8>)> {
    let text = pdf::with_pages(&["A page that is cut off."]);
    let mut truncated_png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    truncated_png.extend([0, 0, 0, 64, 0, 0, 0, 64, 8, 2, 0, 0, 0]);
    vec![
        ("pdf", b"%PDF-1.7 and nothing else".to_vec()),
        ("pdf", text[..text.len() / 3].to_vec()),
        ("pdf", Vec::new()),
        ("png", truncated_png),
        (
            "jpg",
            b"\xff\xd8\xff\xe0\0\x10JFIF and nothing else".to_vec(),
        ),
        ("webp", b"RIFF\x20\0\0\0WEBPVP8 and nothing else".to_vec()),
        ("tiff", tiff(5)),
        ("tiff", tiff(8)),
        ("docx", b"PK\x03\x04 and nothing else".to_vec()),
    ]
}

/// A grey TIFF of 64 x 64 pixels whose only strip is not what its compression says: 5 is LZW, 8 is
/// deflate (TIFF 6.0 and its supplements).
fn tiff(compression: u16) -> Vec<u8> {
    const STRIP: [u8; 64] = [0xff; 64];
    // Tag, type (3: u16, 4: u32), value. The strip follows the directory.
    let entries: [(u16, u16, u32); 9] = [
        (256, 3, 64),
        (257, 3, 64),
        (258, 3, 8),
        (259, 3, u32::from(compression)),
        (262, 3, 1),
        (273, 4, 8 + 2 + 9 * 12 + 4),
        (277, 3, 1),
        (278, 3, 64),
        (279, 4, 64),
    ];
    let mut file = b"II*\0\x08\0\0\0\x09\0".to_vec();
    for (tag, kind, value) in entries {
        file.extend(tag.to_le_bytes());
        file.extend(kind.to_le_bytes());
        file.extend(1_u32.to_le_bytes());
        file.extend(value.to_le_bytes());
    }
    file.extend(0_u32.to_le_bytes());
    file.extend(STRIP);
    file
}
