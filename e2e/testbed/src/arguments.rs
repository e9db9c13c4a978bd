//! The arguments of a command that a cargo alias runs. `cargo faults --seed 1` and
//! `cargo faults -- --seed 1` mean the same, as with `cargo run`.

use std::ffi::OsString;

/// The arguments of this process, without the separator.
pub fn of_alias() -> impl Iterator<Item = OsString> {
    without_separator(std::env::args_os())
}

/// Removes a `--` directly after the name of the program: the alias has one already.
fn without_separator(arguments: impl Iterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    arguments
        .enumerate()
        .filter(|(place, argument)| !(*place == 1 && argument == "--"))
        .map(|(_, argument)| argument)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_separator_after_the_name_is_removed() {
        let cleaned = |words: &str| {
            let words = words.split(' ').map(OsString::from);
            let words: Vec<_> = without_separator(words).collect();
            words.join(OsString::from(" ").as_os_str())
        };
        assert_eq!(cleaned("faults -- --seed 1"), "faults --seed 1");
        assert_eq!(cleaned("faults --seed 1"), "faults --seed 1");
        assert_eq!(cleaned("testbed kubectl -- get"), "testbed kubectl -- get");
    }
}
