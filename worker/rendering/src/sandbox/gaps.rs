//! What a node lacks for the sandbox, and whether a process may do without it.

use serde::{Deserialize, Serialize};

/// Whether a document may be opened where the node lacks a layer of the sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SandboxPolicy {
    /// No. Without Landlock or seccomp, no document is opened.
    #[default]
    Required,
    /// Yes, with the layers that the node has.
    BestEffort,
}

impl SandboxPolicy {
    /// The word on the command line of a child process.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Required => "Required",
            Self::BestEffort => "BestEffort",
        }
    }

    /// The policy with this word. An unknown word is the strict one.
    pub(crate) fn from_word(word: &str) -> Self {
        if word == Self::BestEffort.as_str() {
            Self::BestEffort
        } else {
            Self::Required
        }
    }
}

/// Something that the kernel, or the container runtime, does not provide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Gap {
    /// A whole layer.
    Missing(String),
    /// The newest version of Landlock. What earlier versions do not restrict (truncating by path,
    /// TCP, signals), the lists of allowed system calls do.
    Earlier(String),
}

/// Everything that this node lacks. Empty if it supports the whole sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gaps(Vec<Gap>);

impl FromIterator<Gap> for Gaps {
    fn from_iter<T: IntoIterator<Item = Gap>>(gaps: T) -> Self {
        Self(gaps.into_iter().collect())
    }
}

impl Gaps {
    /// A description of what is lacking, if the policy accepts it. The error says what to do.
    pub(crate) fn accepted_by(&self, policy: SandboxPolicy) -> Result<String, String> {
        let missing = self.0.iter().filter_map(|gap| match gap {
            Gap::Missing(what) => Some(what.as_str()),
            Gap::Earlier(_) => None,
        });
        let missing: Vec<&str> = missing.collect();
        if policy == SandboxPolicy::Required && !missing.is_empty() {
            return Err(format!(
                "this node lacks {}. Run workers on nodes whose kernel and container runtime \
                 allow Landlock and seccomp, or accept a weaker sandbox with \
                 documents.render.sandbox: BestEffort",
                missing.join(" and ")
            ));
        }
        Ok(self.to_string())
    }
}

impl std::fmt::Display for Gaps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let gaps = self.0.iter().map(|gap| match gap {
            Gap::Missing(what) | Gap::Earlier(what) => what.as_str(),
        });
        f.write_str(&gaps.collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gaps(gaps: &[Gap]) -> Gaps {
        gaps.iter().cloned().collect()
    }

    #[test]
    fn a_missing_layer_is_refused_unless_the_policy_allows_it() {
        let landlock = Gap::Missing("Landlock (not enabled)".to_owned());
        let lacking = gaps(&[landlock]);
        let refusal = lacking.accepted_by(SandboxPolicy::Required).unwrap_err();
        assert!(
            refusal.contains("lacks Landlock (not enabled)"),
            "{refusal}"
        );
        assert!(refusal.contains("sandbox: BestEffort"), "{refusal}");
        let accepted = lacking.accepted_by(SandboxPolicy::BestEffort);
        assert_eq!(accepted.as_deref(), Ok("Landlock (not enabled)"));
    }

    #[test]
    fn an_earlier_landlock_is_reported_and_not_refused() {
        let earlier = gaps(&[Gap::Earlier("Landlock V1 instead of V6".to_owned())]);
        let accepted = earlier.accepted_by(SandboxPolicy::Required);
        assert_eq!(accepted.as_deref(), Ok("Landlock V1 instead of V6"));
        assert_eq!(
            gaps(&[]).accepted_by(SandboxPolicy::Required),
            Ok(String::new())
        );
    }

    #[test]
    fn the_words_of_policies_are_read_back() {
        for policy in [SandboxPolicy::Required, SandboxPolicy::BestEffort] {
            assert_eq!(SandboxPolicy::from_word(policy.as_str()), policy);
        }
        assert_eq!(SandboxPolicy::from_word("?"), SandboxPolicy::Required);
    }
}
