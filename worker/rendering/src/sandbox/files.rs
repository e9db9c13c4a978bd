//! Landlock: a process that reads one document and fonts, writes nothing, connects to nothing and
//! signals nobody.

use std::io;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope,
};

/// What the rules are written for: files, truncation, TCP, devices, signals. An older kernel takes
/// the part that it knows.
pub(super) const WRITTEN_FOR: ABI = ABI::V6;

/// Where PDFium looks for fonts that a document does not bring along.
const FONT_DIRECTORIES: [&str; 4] = [
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "/usr/share/X11/fonts/Type1",
    "/usr/share/X11/fonts/TTF",
];

/// Leaves this process the right to read `document` and fonts. Returns what the kernel lacks.
pub(super) fn read_only(document: &Path) -> io::Result<Option<String>> {
    let readable = AccessFs::ReadFile | AccessFs::ReadDir;
    let mut rules = deny_all()?;
    rules = allow(rules, document, readable)?;
    for directory in FONT_DIRECTORIES {
        rules = allow(rules, Path::new(directory), readable)?;
    }
    enforce(rules)
}

/// Rules that deny all that Landlock can deny.
pub(super) fn deny_all() -> io::Result<RulesetCreated> {
    Ruleset::default()
        .handle_access(AccessFs::from_all(WRITTEN_FOR))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(WRITTEN_FOR)))
        .and_then(|rules| rules.scope(Scope::from_all(WRITTEN_FOR)))
        .and_then(Ruleset::create)
        .map_err(io::Error::other)
}

/// Allows `access` to a file or to all below a directory; what does not exist is left out.
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
        access & AccessFs::from_file(WRITTEN_FOR)
    };
    let path = PathFd::new(path).map_err(io::Error::other)?;
    rules
        .add_rule(PathBeneath::new(path, access))
        .map_err(io::Error::other)
}

/// Puts the rules into force for the rest of the process's life. Returns what the kernel lacks.
pub(super) fn enforce(rules: RulesetCreated) -> io::Result<Option<String>> {
    let status = rules.restrict_self().map_err(io::Error::other)?;
    Ok(match (status.ruleset, status.landlock) {
        (RulesetStatus::FullyEnforced, _) => None,
        (_, LandlockStatus::Available { effective_abi, .. }) => Some(format!(
            "Landlock knows less here ({effective_abi:?} instead of {WRITTEN_FOR:?})"
        )),
        (_, LandlockStatus::NotEnabled) => Some("Landlock is not enabled".to_owned()),
        (_, LandlockStatus::NotImplemented) => {
            Some("this kernel has no Landlock, or the container may not use it".to_owned())
        }
    })
}
