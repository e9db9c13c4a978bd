//! Who may search what, and how often: bearer tokens from a file, each for all knowledge bases or
//! for some.
//!
//! ```yaml
//! - token: 6hW...
//! - token: pX2...
//!   knowledgeBases: [alice_manuals]
//!   requestsPerMinute: 60
//! ```

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

use super::rates::{PER_MINUTE, Rates};
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
    read: Mutex<(Instant, Arc<[Known]>)>,
    rates: Rates,
}

/// The SHA-256 of a token. Tokens themselves are not kept.
pub(super) type Digest = [u8; 32];

/// A token of the file.
#[derive(Debug)]
struct Known {
    digest: Digest,
    grant: Grant,
    per_minute: NonZeroU32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    token: String,
    /// Default: all.
    knowledge_bases: Option<HashSet<String>>,
    #[serde(default = "per_minute")]
    requests_per_minute: NonZeroU32,
}

fn per_minute() -> NonZeroU32 {
    PER_MINUTE
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
        let read = Mutex::new((Instant::now(), read(&path)?.into()));
        let rates = Rates::default();
        Ok(Self::Tokens(TokenFile { path, read, rates }))
    }

    /// What the sender of a request may search. Counts the request.
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
        let now = Instant::now();
        let tokens = file.tokens(now);
        let known = find(&tokens, token.trim()).ok_or_else(|| refused("unknown token"))?;
        let counted = file.rates.count(known.digest, known.per_minute, now);
        counted.map_err(|wait| Refusal::too_often(known.per_minute, wait))?;
        Ok(known.grant.clone())
    }
}

/// Compares a token with all that are known, each in constant time: how long that takes tells nothing
/// about them.
fn find<'a>(tokens: &'a [Known], token: &str) -> Option<&'a Known> {
    let digest = digest(token);
    let mut found = None;
    for known in tokens {
        if known.digest.as_slice().ct_eq(&digest).into() {
            found = Some(known);
        }
    }
    found
}

impl TokenFile {
    fn tokens(&self, now: Instant) -> Arc<[Known]> {
        let mut known = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(known.0) > LOOKED_AT_EACH {
            known.0 = now;
            match read(&self.path) {
                Ok(tokens) => {
                    let is_good = |token: &Digest| tokens.iter().any(|it| it.digest == *token);
                    self.rates.keep(is_good);
                    known.1 = tokens.into();
                }
                Err(error) => tracing::error!(error, "the former tokens stay in use"),
            }
        }
        Arc::clone(&known.1)
    }
}

fn read(path: &Path) -> Result<Vec<Known>, String> {
    let unusable = |problem: &dyn std::fmt::Display| format!("{}: {problem}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| unusable(&error))?;
    // The parser's message may quote a token.
    let entries: Vec<Entry> = serde_yaml_ng::from_str(&text).map_err(|error| {
        let line = error.location().map_or(0, |place| place.line());
        unusable(&format!(
            "line {line} is not a list of `token`, `knowledgeBases` and `requestsPerMinute`"
        ))
    })?;
    let mut tokens = Vec::<Known>::new();
    for Entry {
        token,
        knowledge_bases,
        requests_per_minute: per_minute,
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
        let digest = digest(&token);
        if tokens.iter().any(|known| known.digest == digest) {
            return Err(unusable(&"a token is there twice"));
        }
        tokens.push(Known {
            digest,
            grant,
            per_minute,
        });
    }
    Ok(tokens)
}

fn digest(token: &str) -> Digest {
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
    fn a_token_that_asks_too_often_is_told_when_to_come_back() {
        let file = file("- {token: for-everything-1234, requestsPerMinute: 2}\n");
        let access = Access::of_file(file.path().to_owned()).unwrap();
        let ask = || access.grant(&bearer("for-everything-1234"));
        assert!(ask().is_ok() && ask().is_ok());
        let refusal = ask().unwrap_err();
        assert_eq!(refusal.status, StatusCode::TOO_MANY_REQUESTS);
        assert!((29..=30).contains(&refusal.retry_after.unwrap()));
        // A wrong token does not use up anything, and is none of the others' business.
        let wrong = access.grant(&bearer("for-everything-9999")).unwrap_err();
        assert_eq!(wrong.status, StatusCode::UNAUTHORIZED);
    }

    #[test]
    fn a_changed_file_counts_and_a_broken_one_does_not() {
        let file = file("- token: for-everything-1234\n");
        let Access::Tokens(tokens) = Access::of_file(file.path().to_owned()).unwrap() else {
            panic!("no tokens")
        };
        let later = |times: u32| Instant::now() + 2 * LOOKED_AT_EACH * times;
        std::fs::write(file.path(), "- token: another-token-5678\n").unwrap();
        let knows = |now, token| find(&tokens.tokens(now), token).is_some();
        assert!(knows(Instant::now(), "for-everything-1234"));
        assert!(!knows(later(1), "for-everything-1234"));
        std::fs::write(file.path(), "- tokn: x\n").unwrap();
        assert!(knows(later(2), "another-token-5678"));
    }

    #[test]
    fn a_file_that_cannot_be_used_is_refused_without_its_tokens() {
        for text in [
            "- token: short\n",
            "token: not-a-list-of-tokens\n",
            "- {token: twice-in-the-file-1}\n- {token: twice-in-the-file-1}\n",
            "- {token: twice-in-the-file-1, requestsPerMinute: 0}\n",
        ] {
            let error = Access::of_file(file(text).path().to_owned()).unwrap_err();
            assert!(!error.contains("twice-in") && !error.contains("not-a-list-of"));
        }
    }
}
