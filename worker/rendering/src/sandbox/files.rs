//! Landlock rules: the process may read one document and fonts. It may not write files, connect
//! over TCP or signal other processes.

use std::io;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope,
};

use super::Gap;

/// Landlock version of the rules, with files, truncation, TCP, devices and signals. An older kernel
/// applies the part that it supports.
pub(super) const LANDLOCK_ABI: ABI = ABI::V6;

/// Where PDFium looks for fonts that a document does not embed.
pub(crate) const FONT_DIRECTORIES: [&str; 4] = [
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "/usr/share/X11/fonts/Type1",
    "/usr/share/X11/fonts/TTF",
];

/// Restricts this process to reading `document` and fonts. Returns what the kernel does not
/// support.
pub(super) fn read_only(document: &Path) -> io::Result<Option<Gap>> {
    let readable = AccessFs::ReadFile | AccessFs::ReadDir;
    let mut rules = deny_all()?;
    rules = allow(rules, document, readable)?;
    for directory in FONT_DIRECTORIES {
        rules = allow(rules, Path::new(directory), readable)?;
    }
    enforce(rules)
}

/// Rules that deny everything Landlock can deny.
pub(super) fn deny_all() -> io::Result<RulesetCreated> {
    Ruleset::default()
        .handle_access(AccessFs::from_all(LANDLOCK_ABI))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(LANDLOCK_ABI)))
        .and_then(|rules| rules.scope(Scope::from_all(LANDLOCK_ABI)))
        .and_then(Ruleset::create)
        .map_err(io::Error::other)
}

/// Allows `access` to a file, or to everything below a directory. Missing paths are skipped.
pub(super) fn allow(
    rules: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> io::Result<RulesetCreated> {
    let Ok(metadata) = path.metadata() else {
        return Ok(rules);
    };
    let access = if metadata.is_dir() {
        access
    } else {
        access & AccessFs::from_file(LANDLOCK_ABI)
    };
    let path = PathFd::new(path).map_err(io::Error::other)?;
    rules
        .add_rule(PathBeneath::new(path, access))
        .map_err(io::Error::other)
}

/// Applies the rules to this process permanently. Returns what the kernel does not support.
pub(super) fn enforce(rules: RulesetCreated) -> io::Result<Option<Gap>> {
    let status = rules.restrict_self().map_err(io::Error::other)?;
    Ok(match (status.ruleset, status.landlock) {
        (RulesetStatus::FullyEnforced, _) => None,
        (_, LandlockStatus::Available { effective_abi, .. }) => Some(Gap::Earlier(format!(
            "Landlock {effective_abi:?} instead of {LANDLOCK_ABI:?}"
        ))),
        (_, LandlockStatus::NotEnabled) => {
            let what = "Landlock (not enabled: the kernel's parameter `lsm` must name it)";
            Some(Gap::Missing(what.to_owned()))
        }
        (_, LandlockStatus::NotImplemented) => {
            let what = "Landlock (not in this kernel, or blocked for the container)";
            Some(Gap::Missing(what.to_owned()))
        }
    })
}
