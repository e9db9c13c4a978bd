//! What a person at a terminal sees: colours, the size of the window, and text without control
//! characters.

use std::io::IsTerminal as _;

use rustix::termios::tcgetwinsize;

/// A colour of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colour {
    Red,
    Yellow,
    Green,
    Dim,
    Bold,
}

impl Colour {
    fn code(self) -> &'static str {
        match self {
            Self::Red => "31",
            Self::Yellow => "33",
            Self::Green => "32",
            Self::Dim => "2",
            Self::Bold => "1",
        }
    }
}

/// How to write to standard output.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Style {
    pub(crate) colours: bool,
    /// Columns and lines of the terminal. Absent: standard output is no terminal.
    pub(crate) window: Option<(usize, usize)>,
}

impl Style {
    /// Colours only on a terminal, and not with `NO_COLOR` (no-color.org) or a terminal without.
    pub(crate) fn of_output() -> Self {
        let output = std::io::stdout();
        if !output.is_terminal() {
            return Self::default();
        }
        let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            colours: !is_set("NO_COLOR") && !is_dumb,
            window: Some(window()),
        }
    }

    pub(crate) fn paint(self, colour: Option<Colour>, text: &str) -> String {
        match colour {
            Some(colour) if self.colours && !text.is_empty() => {
                format!("\x1b[{}m{text}\x1b[0m", colour.code())
            }
            _ => text.to_owned(),
        }
    }

    /// Text in lines of the terminal's width, each but the first with `indent`. The first begins
    /// after as many columns. Without a terminal it is one line.
    pub(crate) fn wrap(self, text: &str, indent: usize) -> String {
        let text = clean(text);
        let room = match self.window {
            Some((columns, _)) if columns >= indent + 30 => columns - indent,
            _ => return text,
        };
        let mut wrapped = String::new();
        let mut length = 0;
        for word in text.split(' ') {
            let added = word.chars().count();
            if length > 0 && length + 1 + added > room {
                wrapped.push('\n');
                wrapped.push_str(&" ".repeat(indent));
                length = 0;
            } else if length > 0 {
                wrapped.push(' ');
                length += 1;
            }
            wrapped.push_str(word);
            length += added;
        }
        wrapped
    }
}

/// Columns and lines of the terminal now.
pub(crate) fn window() -> (usize, usize) {
    let size = tcgetwinsize(std::io::stdout()).ok();
    let known = |cells: u16, usual: usize| if cells == 0 { usual } else { cells.into() };
    size.map_or((80, 24), |size| {
        (known(size.ws_col, 80), known(size.ws_row, 24))
    })
}

/// Text of a server on one line: a message must not move the cursor or change colours.
pub(crate) fn clean(text: &str) -> String {
    let printable = text.replace(|letter: char| letter.is_control(), " ");
    printable.trim().to_owned()
}

/// One cell of a table.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    pub(crate) text: String,
    pub(crate) colour: Option<Colour>,
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self { text, colour: None }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl Cell {
    pub(crate) fn painted(text: impl Into<String>, colour: Colour) -> Self {
        Self {
            text: text.into(),
            colour: Some(colour),
        }
    }
}

/// Columns of equal width, two spaces apart. A title that begins with `>` is of a column of numbers,
/// which stand at the right.
pub(crate) fn table(titles: &[&str], rows: &[Vec<Cell>], style: Style) -> Vec<String> {
    let length = |text: &str| text.chars().count();
    let name = |title: &str| title.trim_start_matches('>').to_owned();
    let mut widths: Vec<usize> = titles.iter().map(|title| length(&name(title))).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = length(&cell.text).max(*width);
        }
    }
    let line = |cells: &[Cell]| {
        let mut line = String::new();
        for (position, cell) in cells.iter().enumerate() {
            let fill = " ".repeat(widths[position].saturating_sub(length(&cell.text)));
            let text = style.paint(cell.colour, &cell.text);
            let gap = if position == 0 { "" } else { "  " };
            if titles[position].starts_with('>') {
                line.extend([gap, &fill, &text]);
            } else if position + 1 == cells.len() {
                line.extend([gap, &text]);
            } else {
                line.extend([gap, &text, &fill]);
            }
        }
        line
    };
    let titles: Vec<Cell> = titles
        .iter()
        .map(|title| Cell::painted(name(title), Colour::Bold))
        .collect();
    std::iter::once(line(&titles))
        .chain(rows.iter().map(|row| line(row)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLOURED: Style = Style {
        colours: true,
        window: Some((40, 10)),
    };

    #[test]
    fn numbers_stand_at_the_right_and_nothing_follows_the_last_word() {
        let rows = [
            vec!["a".into(), "1".into(), "ready".into()],
            vec!["longer".into(), "1000".into(), "no".into()],
        ];
        let lines = table(&["NAME", ">LAG", "STATE"], &rows, Style::default());
        assert_eq!(
            lines,
            [
                "NAME     LAG  STATE",
                "a          1  ready",
                "longer  1000  no"
            ]
        );
    }

    #[test]
    fn colours_do_not_move_the_columns() {
        let rows = [vec![Cell::painted("a", Colour::Red), "b".into()]];
        let lines = table(&["NAME", "X"], &rows, COLOURED);
        assert_eq!(lines[1], "\x1b[31ma\x1b[0m     b");
    }

    #[test]
    fn long_text_is_wrapped_at_words_and_indented() {
        let text = "Create the Secret and the key that the message names.";
        let wrapped = COLOURED.wrap(text, 4);
        assert_eq!(
            wrapped,
            "Create the Secret and the key that\n    the message names."
        );
        assert_eq!(Style::default().wrap(text, 4), text);
    }

    #[test]
    fn a_servers_words_cannot_control_the_terminal() {
        assert_eq!(clean("one\r\n\x1b[2Jtwo\n"), "one   [2Jtwo");
    }
}
