//! A model in a bucket of the pipeline's object store. A file `SHA256SUMS` with the others, in the
//! format of `sha256sum`, lists their digests.

use std::collections::HashMap;

use futures::TryStreamExt as _;

use super::cache::{Body, RemoteDigest, RemoteFile, Source, chunks};
use crate::runtime::failure::{Failure, Reason, Stage};
use crate::stores::objects::Objects;

const SUMS: &str = "SHA256SUMS";

/// A prefix in a bucket.
pub(super) struct Bucket {
    pub(super) objects: Objects,
    pub(super) prefix: String,
}

impl Bucket {
    async fn sums(&self) -> Result<HashMap<String, String>, Failure> {
        let key = format!("{}/{SUMS}", self.prefix);
        let (_, _, body) = self.objects.read_from(Stage::Model, &key, 0, None).await?;
        let bytes: Vec<u8> = body
            .try_fold(Vec::new(), async |mut all, chunk| {
                all.extend_from_slice(&chunk);
                Ok(all)
            })
            .await?;
        parse_sums(&String::from_utf8_lossy(&bytes)).map_err(|line| {
            let message = format!("{key}: line {line} is not `<64 hexadecimal digits>  NAME`");
            Failure::fatal(Stage::Model, Reason::ModelUnusable, message)
        })
    }
}

impl Source for Bucket {
    async fn list(&self) -> Result<Vec<RemoteFile>, Failure> {
        let listed = self.objects.list(Stage::Model, &self.prefix).await?;
        let names = || {
            listed
                .iter()
                .filter_map(|object| object.location.filename())
        };
        let sums = if names().any(|name| name == SUMS) {
            self.sums().await?
        } else {
            HashMap::new()
        };
        let file = |object: &object_store::ObjectMeta| {
            let name = object.location.filename()?.to_owned();
            Some(RemoteFile {
                bytes: object.size,
                version: object.e_tag.clone().unwrap_or_default(),
                digest: sums.get(&name).cloned().map(RemoteDigest::Sha256),
                name,
            })
        };
        Ok(listed.iter().filter_map(file).collect())
    }

    async fn open(&self, file: &RemoteFile, from: u64) -> Result<Body, Failure> {
        let key = format!("{}/{}", self.prefix, file.name);
        // A changed object must not be appended to the beginning of the old one.
        let version = Some(file.version.as_str()).filter(|version| !version.is_empty());
        let (from, _, body) = self
            .objects
            .read_from(Stage::Model, &key, from, version)
            .await?;
        Ok(Body {
            from,
            chunks: chunks(body),
        })
    }
}

/// Digests by file name. The error is the number of the first invalid line.
fn parse_sums(text: &str) -> Result<HashMap<String, String>, usize> {
    let lines = text.lines().enumerate();
    lines
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(number, line)| {
            let (digest, name) = line.split_once([' ', '\t']).ok_or(number + 1)?;
            let is_digest = digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit());
            // `*` precedes the name of a file that was read as binary.
            let name = name.trim().trim_start_matches('*').trim_start_matches("./");
            if !is_digest || name.is_empty() {
                return Err(number + 1);
            }
            Ok((name.to_owned(), digest.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_of_sha256sum_is_read() {
        let digest = "ab".repeat(32);
        let text = format!("{digest}  config.json\n{digest} *model.safetensors\n\n");
        let sums = parse_sums(&text).unwrap();
        assert_eq!(sums["config.json"], digest);
        assert_eq!(sums["model.safetensors"], digest);
        assert_eq!(parse_sums("\nxyz  config.json"), Err(2));
    }
}
