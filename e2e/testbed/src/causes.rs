//! Extracts why tests failed, in a few lines, from the output of the test harness.

use std::fmt;

/// Number of lines that are kept per test; the full text is in the output above.
const LINES: usize = 12;

/// Reads the output of test programs line by line.
#[derive(Debug, Default)]
pub struct Causes {
    causes: Vec<Cause>,
    /// Whether the next line belongs to the last cause.
    open: bool,
}

#[derive(Debug)]
struct Cause {
    test: String,
    lines: Vec<String>,
}

impl Causes {
    /// Reads a line.
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
        // Neither the backtrace nor the list of names at the end belongs to the cause.
        if line == "failures:" || line.trim() == "Stack backtrace:" {
            self.open = false;
        }
        let Some(cause) = self.causes.last_mut() else {
            return;
        };
        // The error that a test returns, or its panic message.
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
some output
--- a log
Error: injecting

Caused by:
    worker 1 did not exit within 60 s

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
    fn each_failed_test_is_listed_with_its_error_or_panic() {
        let mut causes = Causes::default();
        OUTPUT.lines().for_each(|line| causes.read(line));
        let expected = "a::returns
    Error: injecting
    Caused by:
        worker 1 did not exit within 60 s
a::panics
    thread 'a::panics' (12) panicked at e2e/tests/x.rs:3:5:
    assertion `left == right` failed
      left: 1
     right: 2
";
        assert_eq!(causes.to_string(), expected);
    }

    #[test]
    fn nothing_is_listed_when_all_tests_pass() {
        let mut causes = Causes::default();
        "running 1 test\ntest a ... ok\n\ntest result: ok."
            .lines()
            .for_each(|line| causes.read(line));
        assert_eq!(causes.to_string(), "");
    }
}
