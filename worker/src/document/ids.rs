//! Names of a document's data in the stores.
//!
//! All names are derived from the file and the page, so that ingesting a document again replaces
//! its data.

use std::fmt::Write as _;
use std::path::Path;

use sha2::{Digest, Sha256};
use uuid::Uuid;

/// The namespace of this project's derived UUIDs.
const NAMESPACE: Uuid = Uuid::from_u128(0x5d0c_6f0e_7a5b_5c1e_9b52_8d3e_4f61_a7c4);

/// Milvus' `image_id` and MongoDB's `images_id` of a page (0-based): `{username}_{uuid}`.
pub(crate) fn image_id(username: &str, file_id: &str, page: u32) -> String {
    let uuid = Uuid::new_v5(&NAMESPACE, format!("{file_id}\0{page}").as_bytes());
    format!("{username}_{uuid}")
}

/// The key of a page's image (page 0-based): `{username}_{stem}_{24 hex digits}.{extension}`.
pub(crate) fn image_key(
    username: &str,
    file_name: &str,
    file_id: &str,
    page: u32,
    extension: &str,
) -> String {
    let digits = hex24(&[file_id.as_bytes(), &page.to_be_bytes()]);
    format!("{username}_{}_{digits}.{extension}", stem(file_name))
}

/// The `file_id` of a file that was not uploaded through LAYRA. The same content under the same
/// name in the same knowledge base is the same file.
pub(crate) fn file_id(
    username: &str,
    knowledge_base: &str,
    file_name: &str,
    sha256: &[u8],
) -> String {
    let name = [
        knowledge_base.as_bytes(),
        b"\0",
        file_name.as_bytes(),
        b"\0",
        sha256,
    ]
    .concat();
    format!("{username}_{}", Uuid::new_v5(&NAMESPACE, &name))
}

/// The key of an original: `{username}_{stem}_{24 hex digits}{.extension}`.
pub(crate) fn original_key(username: &str, file_name: &str, file_id: &str) -> String {
    let digits = hex24(&[file_id.as_bytes()]);
    let extension = Path::new(file_name)
        .extension()
        .map_or(String::new(), |extension| {
            format!(".{}", extension.to_string_lossy())
        });
    format!("{username}_{}_{digits}{extension}", stem(file_name))
}

/// The `file_id` of a version of an object that was put into the bucket of a pipeline.
pub(crate) fn object_file_id(
    username: &str,
    knowledge_base: &str,
    object: &str,
    version: &str,
) -> String {
    let name = [knowledge_base, object, version].join("\0");
    format!("{username}_{}", Uuid::new_v5(&NAMESPACE, name.as_bytes()))
}

/// Whether a key has the form of [`image_key`] or [`original_key`], for this user.
pub(crate) fn is_own_key(username: &str, key: &str) -> bool {
    let Some(name) = key
        .strip_prefix(username)
        .and_then(|rest| rest.strip_prefix('_'))
    else {
        return false;
    };
    let has_digits = |stem: &str| {
        stem.rsplit_once('_').is_some_and(|(_, digits)| {
            let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            digits.len() == 24 && digits.bytes().all(is_digit)
        })
    };
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    !name.contains('/') && (has_digits(stem) || has_digits(name))
}

/// 24 hex digits, the length of a MongoDB object id.
fn hex24(parts: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part);
        hasher.update([0]);
    }
    hasher.finalize()[..12]
        .iter()
        .fold(String::new(), |mut text, byte| {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// The file name without its last extension.
fn stem(file_name: &str) -> &str {
    match file_name.rsplit_once('.') {
        Some((stem, _)) if !stem.is_empty() => stem,
        _ => file_name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_layras_format_and_are_stable() {
        let id = image_id("roger", "roger_f", 0);
        let (user, uuid) = id.split_once('_').unwrap();
        assert_eq!(user, "roger");
        assert_eq!(Uuid::parse_str(uuid).unwrap().get_version_num(), 5);
        assert_eq!(id, image_id("roger", "roger_f", 0));

        let key = image_key("roger", "My report.v2.pdf", "roger_f", 0, "png");
        let digits = key
            .strip_prefix("roger_My report.v2_")
            .unwrap()
            .strip_suffix(".png")
            .unwrap();
        assert_eq!(digits.len(), 24);
        assert!(digits.bytes().all(|digit| digit.is_ascii_hexdigit()));

        let key = original_key("roger", "a.tar.pdf", "f");
        assert!(key.starts_with("roger_a.tar_"));
        assert_eq!(std::path::Path::new(&key).extension(), Some("pdf".as_ref()));
        assert!(!original_key("roger", "README", "f").contains('.'));
    }

    #[test]
    fn names_differ_by_file_and_page() {
        let names: std::collections::BTreeSet<_> = ["a", "b"]
            .into_iter()
            .flat_map(|file| {
                (0..300).map(move |page| {
                    (
                        image_id("u", file, page),
                        image_key("u", "x.pdf", file, page, "png"),
                    )
                })
            })
            .collect();
        assert_eq!(names.len(), 600);
    }

    #[test]
    fn content_name_and_knowledge_base_identify_a_file() {
        let one = file_id("u", "kb", "a.pdf", b"1");
        assert_eq!(one, file_id("u", "kb", "a.pdf", b"1"));
        assert_ne!(one, file_id("u", "kb", "a.pdf", b"2"));
        assert_ne!(one, file_id("u", "kb", "b.pdf", b"1"));
        assert_ne!(one, file_id("u", "kb2", "a.pdf", b"1"));
    }
}
