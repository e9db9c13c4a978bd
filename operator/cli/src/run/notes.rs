//! Messages for the person at the terminal, apart from the output of the command.

use std::io::Write;

/// Lines on standard error. A line that repeats the one before it is left out.
pub(super) struct Notes {
    terminal: Box<dyn Write>,
    last: String,
}

impl Notes {
    pub(super) fn new(terminal: impl Write + 'static) -> Self {
        Self {
            terminal: Box::new(terminal),
            last: String::new(),
        }
    }

    pub(super) fn add(&mut self, line: String) {
        if line != self.last {
            // A closed terminal must not stop the command.
            let _ = writeln!(self.terminal, "{line}");
            self.last = line;
        }
    }
}
