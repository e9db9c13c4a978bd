//! Addresses of model files. No I/O.

use std::path::PathBuf;

use crate::runtime::failure::{Failure, Reason, Stage};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    Directory(PathBuf),
    /// A prefix in a bucket of the pipeline's object store.
    Bucket {
        bucket: String,
        /// Without slashes at its ends.
        prefix: String,
    },
    /// A repository on the Hugging Face hub.
    Hub {
        /// `organisation/name`
        repository: String,
        /// A branch, a tag or a commit.
        revision: String,
    },
}

impl Address {
    /// Parses `file://`, `s3://` and `hf://`.
    pub(super) fn parse(uri: &str) -> Result<Self, Failure> {
        let parsed = match uri.split_once("://") {
            Some(("file", path)) if path.starts_with('/') => Some(Self::Directory(path.into())),
            Some(("s3", rest)) => rest
                .split_once('/')
                .map(|(bucket, prefix)| (bucket, prefix.trim_matches('/')))
                .filter(|(bucket, prefix)| !bucket.is_empty() && !prefix.is_empty())
                .map(|(bucket, prefix)| Self::Bucket {
                    bucket: bucket.to_owned(),
                    prefix: prefix.to_owned(),
                }),
            Some(("hf", rest)) => Self::hub(rest),
            _ => None,
        };
        parsed.ok_or_else(|| {
            let message = format!(
                "{uri} is not a valid address of a model: set embedding.model to \
                 s3://bucket/prefix, hf://organisation/name@revision or file:///path"
            );
            Failure::fatal(Stage::Model, Reason::InvalidModelUri, message)
        })
    }

    fn hub(rest: &str) -> Option<Self> {
        let (repository, revision) = rest.split_once('@').unwrap_or((rest, "main"));
        let (organisation, name) = repository.split_once('/')?;
        // Names become parts of a URL's path and must not change its meaning.
        let plain = |text: &str| {
            !text.starts_with('.')
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        };
        let valid = [organisation, name]
            .iter()
            .all(|part| !part.is_empty() && plain(part))
            && revision
                .split('/')
                .all(|part| !part.is_empty() && plain(part));
        valid.then(|| Self::Hub {
            repository: repository.to_owned(),
            revision: revision.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_address_is_parsed() {
        assert_eq!(
            Address::parse("file:///models/x").unwrap(),
            Address::Directory("/models/x".into())
        );
        assert_eq!(
            Address::parse("s3://models/colqwen/v1/").unwrap(),
            Address::Bucket {
                bucket: "models".into(),
                prefix: "colqwen/v1".into()
            }
        );
        let hub = |revision: &str| Address::Hub {
            repository: "vidore/colqwen2.5-v0.2".into(),
            revision: revision.into(),
        };
        assert_eq!(
            Address::parse("hf://vidore/colqwen2.5-v0.2").unwrap(),
            hub("main")
        );
        assert_eq!(
            Address::parse("hf://vidore/colqwen2.5-v0.2@refs/pr/3").unwrap(),
            hub("refs/pr/3")
        );
    }

    #[test]
    fn an_error_contains_the_invalid_address() {
        for uri in [
            "models",
            "https://example.com/x",
            "file://relative",
            "s3://bucket",
            "s3:///x",
            "hf://name",
            "hf://a/b/c",
            "hf://a/../b",
            "hf://a/b@../../x",
            "hf://a/b@x y",
            "hf://a/b@",
        ] {
            let failure = Address::parse(uri).unwrap_err();
            assert!(failure.message.contains(uri), "{failure}");
        }
    }
}
