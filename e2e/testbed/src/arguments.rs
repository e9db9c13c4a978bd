//! The arguments of a command that an alias of cargo runs. `cargo faults --seed 1` and
//! `cargo faults -- --seed 1` are the same, as with `cargo run`.

use std::ffi::OsString;

/// The arguments of this process.
pub fn of_alias() -> impl Iterator<Item = OsString> {
    without_separator(std::env::args_os())
}

/// Without the `--` that may follow the name of the program: the alias has one already.
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
    fn a_separator_after_the_name_is_left_out() {
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
