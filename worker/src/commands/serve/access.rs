//! Who may search what: bearer tokens from a file, each for all knowledge bases or for some.
//!
//! ```yaml
//! - token: 6hW...
//! - token: pX2...
//!   knowledgeBases: [alice_manuals]
//! ```

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::refusal::Refusal;

/// How often the file is looked at.
const LOOKED_AT_EACH: Duration = Duration::from_secs(10);
/// Fewer characters can be guessed.
const SHORTEST: usize = 16;

/// What a token is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Grant {
    /// All knowledge bases.
    All,
    /// These only.
    Some(Arc<HashSet<String>>),
}

impl Grant {
    pub(super) fn covers(&self, knowledge_base: &str) -> bool {
        match self {
            Self::All => true,
            Self::Some(these) => these.contains(knowledge_base),
        }
    }
}

/// Who may search.
#[derive(Debug)]
pub(super) enum Access {
    /// Everyone.
    Open,
    /// Nobody: no tokens are configured.
    Closed,
    /// Who has one of the tokens of a file.
    Tokens(TokenFile),
}

/// The tokens of a file, as it was read last.
#[derive(Debug)]
pub(super) struct TokenFile {
    path: PathBuf,
    read: Mutex<(Instant, Arc<Grants>)>,
}

/// By the SHA-256 of the token: how long a comparison takes tells nothing about the tokens.
type Grants = HashMap<[u8; 32], Grant>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    token: String,
    /// Default: all.
    knowledge_bases: Option<HashSet<String>>,
}

impl Access {
    pub(super) fn open() -> Self {
        Self::Open
    }

    pub(super) fn closed() -> Self {
        Self::Closed
    }

    /// Fails if the file cannot be used.
    pub(super) fn of_file(path: PathBuf) -> Result<Self, String> {
        let grants = Arc::new(read(&path)?);
        let read = Mutex::new((Instant::now(), grants));
        Ok(Self::Tokens(TokenFile { path, read }))
    }

    /// What the sender of a request may search.
    pub(super) fn grant(&self, headers: &HeaderMap) -> Result<Grant, Refusal> {
        let refused = |detail: &str| Refusal::new(StatusCode::UNAUTHORIZED, "WrongToken", detail);
        let file = match self {
            Self::Open => return Ok(Grant::All),
            Self::Closed => {
                return Err(refused(
                    "nobody may search: start the server with --tokens or --open",
                ));
            }
            Self::Tokens(file) => file,
        };
        let value = headers.get(header::AUTHORIZATION);
        let value = value.and_then(|value| value.to_str().ok());
        let token = value.and_then(|value| value.split_once(' '));
        let token = token.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let (_, token) = token.ok_or_else(|| refused("a bearer token is needed"))?;
        let grants = file.grants(Instant::now());
        let grant = grants.get(&digest(token.trim()));
        grant.cloned().ok_or_else(|| refused("unknown token"))
    }
}

impl TokenFile {
    fn grants(&self, now: Instant) -> Arc<Grants> {
        let mut known = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(known.0) > LOOKED_AT_EACH {
            known.0 = now;
            match read(&self.path) {
                Ok(grants) => known.1 = Arc::new(grants),
                Err(error) => tracing::error!(error, "the former tokens stay in use"),
            }
        }
        Arc::clone(&known.1)
    }
}

fn read(path: &Path) -> Result<Grants, String> {
    let unusable = |problem: &dyn std::fmt::Display| format!("{}: {problem}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| unusable(&error))?;
    // The parser's message may quote a token.
    let entries: Vec<Entry> = serde_yaml_ng::from_str(&text).map_err(|error| {
        let line = error.location().map_or(0, |place| place.line());
        unusable(&format!(
            "line {line} is not a list of `token` and `knowledgeBases`"
        ))
    })?;
    let mut grants = Grants::new();
    for Entry {
        token,
        knowledge_bases,
    } in entries
    {
        if token.len() < SHORTEST {
            return Err(unusable(&format!(
                "a token has fewer than {SHORTEST} characters"
            )));
        }
        let grant = match knowledge_bases {
            None => Grant::All,
            Some(these) => Grant::Some(Arc::new(these)),
        };
        if grants.insert(digest(&token), grant).is_some() {
            return Err(unusable(&"a token is there twice"));
        }
    }
    Ok(grants)
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    fn bearer(token: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let value = format!("Bearer {token}");
        headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        headers
    }

    #[test]
    fn a_token_is_good_for_what_the_file_says() {
        let file = file(
            "- token: for-everything-1234\n\
             - {token: for-one-base-123456, knowledgeBases: [alice_manuals]}\n",
        );
        let access = Access::of_file(file.path().to_owned()).unwrap();
        let all = access.grant(&bearer("for-everything-1234")).unwrap();
        assert!(all.covers("bob_manuals"));
        let one = access.grant(&bearer("for-one-base-123456")).unwrap();
        assert!(one.covers("alice_manuals") && !one.covers("bob_manuals"));
        for headers in [HeaderMap::new(), bearer("for-everything-123"), bearer("")] {
            let refusal = access.grant(&headers).unwrap_err();
            assert_eq!(refusal.status, StatusCode::UNAUTHORIZED);
        }
    }

    #[test]
    fn a_changed_file_counts_and_a_broken_one_does_not() {
        let file = file("- token: for-everything-1234\n");
        let Access::Tokens(tokens) = Access::of_file(file.path().to_owned()).unwrap() else {
            panic!("no tokens")
        };
        let later = |times: u32| Instant::now() + 2 * LOOKED_AT_EACH * times;
        std::fs::write(file.path(), "- token: another-token-5678\n").unwrap();
        let (first, second) = (digest("for-everything-1234"), digest("another-token-5678"));
        assert!(tokens.grants(Instant::now()).contains_key(&first));
        assert!(!tokens.grants(later(1)).contains_key(&first));
        std::fs::write(file.path(), "- tokn: x\n").unwrap();
        assert!(tokens.grants(later(2)).contains_key(&second));
    }

    #[test]
    fn a_file_that_cannot_be_used_is_refused_without_its_tokens() {
        for text in [
            "- token: short\n",
            "token: not-a-list-of-tokens\n",
            "- {token: twice-in-the-file-1}\n- {token: twice-in-the-file-1}\n",
        ] {
            let error = Access::of_file(file(text).path().to_owned()).unwrap_err();
            assert!(!error.contains("twice-in") && !error.contains("not-a-list-of"));
        }
    }
}
