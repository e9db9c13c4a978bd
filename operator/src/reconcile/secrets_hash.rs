//! The hash of Secrets on the pods. Who may read a Deployment must not find a password in it, so the
//! hash is salted, one for all Secrets together, and takes thousands of rounds.

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::resources;

/// Rounds of SHA-256: a few milliseconds.
const ROUNDS: u32 = 20_000;

/// The last hash, so that it is computed only when the data has changed.
#[derive(Default)]
pub(super) struct SecretsHash(Option<Computed>);

struct Computed {
    /// A fast hash of the salt and the data; it never leaves the process.
    input: [u8; 32],
    hash: String,
}

impl SecretsHash {
    /// The hash of `data`, different for each `salt`.
    pub(super) fn of(&mut self, salt: &str, data: &impl Serialize) -> String {
        // Maps with text keys, texts and bytes: nothing here can fail to serialise.
        let text = serde_json::to_vec(&(salt, data)).unwrap_or_default();
        let input: [u8; 32] = Sha256::digest(text).into();
        match &self.0 {
            Some(computed) if computed.input == input => computed.hash.clone(),
            _ => {
                let mut rounds = input;
                for _ in 0..ROUNDS {
                    rounds = Sha256::digest(rounds).into();
                }
                let hash = resources::hash_of(&rounds);
                self.0 = Some(Computed {
                    input,
                    hash: hash.clone(),
                });
                hash
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_depends_on_the_salt_and_the_data_alone() {
        let mut hash = SecretsHash::default();
        let first = hash.of("a", &["secret"]);
        assert_eq!(first, hash.of("a", &["secret"]));
        assert_ne!(first, hash.of("b", &["secret"]), "another pipeline");
        assert_ne!(first, hash.of("a", &["Secret"]));
        assert_eq!(
            first,
            SecretsHash::default().of("a", &["secret"]),
            "after a restart"
        );
        assert_ne!(first, resources::hash_of(&("a", ["secret"])));
    }
}
