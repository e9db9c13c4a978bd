//! Why tests failed, in a few lines, from what the test harness prints.

use std::fmt;

/// Longest part of a cause that is kept; all of it stands in the output above.
const LINES: usize = 12;

/// Reads the output of test programs line by line.
#[derive(Debug, Default)]
pub struct Causes {
    causes: Vec<Cause>,
    /// Whether the line belongs to the last cause.
    open: bool,
}

#[derive(Debug)]
struct Cause {
    test: String,
    lines: Vec<String>,
}

impl Causes {
    /// Reads one more line.
    pub fn read(&mut self, line: &str) {
        if let Some(test) = line
            .strip_prefix("---- ")
            .and_then(|rest| rest.strip_suffix(" stdout ----"))
        {
            self.causes.push(Cause {
                test: test.to_owned(),
                lines: Vec::new(),
            });
            self.open = false;
            return;
        }
        // Where it arose stands in the output; so does the list of names after the last test.
        if line == "failures:" || line.trim() == "Stack backtrace:" {
            self.open = false;
        }
        let Some(cause) = self.causes.last_mut() else {
            return;
        };
        // What a test returns, and what it panics with.
        let begins = line.starts_with("Error: ")
            || (line.starts_with("thread '") && line.contains("panicked at"));
        self.open |= begins;
        if self.open && cause.lines.len() < LINES {
            cause.lines.push(line.to_owned());
        }
    }
}

impl fmt::Display for Causes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Cause { test, lines } in &self.causes {
            writeln!(f, "{test}")?;
            for line in lines.iter().filter(|line| !line.trim().is_empty()) {
                writeln!(f, "    {line}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "
running 3 tests
test a::returns ... FAILED
test a::panics ... FAILED
test a::works ... ok

failures:

---- a::returns stdout ----
something it said
--- a log
Error: injecting

Caused by:
    worker 1 does not leave within 60 s

Stack backtrace:
   0: anyhow::error::Error::msg

---- a::panics stdout ----

thread 'a::panics' (12) panicked at e2e/tests/x.rs:3:5:
assertion `left == right` failed
  left: 1
 right: 2

failures:
    a::returns
    a::panics

test result: FAILED. 1 passed; 2 failed
";

    #[test]
    fn names_each_failed_test_with_what_it_said_last() {
        let mut causes = Causes::default();
        OUTPUT.lines().for_each(|line| causes.read(line));
        let expected = "a::returns
    Error: injecting
    Caused by:
        worker 1 does not leave within 60 s
a::panics
    thread 'a::panics' (12) panicked at e2e/tests/x.rs:3:5:
    assertion `left == right` failed
      left: 1
     right: 2
";
        assert_eq!(causes.to_string(), expected);
    }

    #[test]
    fn is_empty_when_all_is_well() {
        let mut causes = Causes::default();
        "running 1 test\ntest a ... ok\n\ntest result: ok."
            .lines()
            .for_each(|line| causes.read(line));
        assert_eq!(causes.to_string(), "");
    }
}
