//! How far the cells of a workbook reach, which decides what its conversion costs: LibreOffice lays
//! out the empty ones before the last, too, and needs minutes for a value in the very last cell.
//! Runs in the renderer. Sheets that are too large are refused here.

use std::io::{BufRead, BufReader};

use super::office_archive::Archive;
use super::office_format::OfficeFormat;
use super::office_xml::{Tag, each_tag, number, text};
use super::{RenderError, office_xlsb};

/// Cells of a sheet up to its last row and column at most: those of a whole sheet of Excel 97.
const MAX_AREA: u64 = 1 << 24;
/// Cells on a page at most. A usual page has a few hundred.
const PAGE_CELLS: u64 = 4000;

/// Checks the sheets of a workbook. Other documents have none.
pub(super) fn check(
    archive: &mut Archive,
    format: OfficeFormat,
    max_pages: u32,
) -> Result<(), RenderError> {
    let mut sheets = Sheets::of(max_pages);
    match format {
        OfficeFormat::Xlsx | OfficeFormat::Xlsb => {
            for name in archive.names() {
                let sheet = name.strip_prefix("xl/worksheets/");
                // What sheets refer to is in folders below.
                if sheet.is_none_or(|sheet| sheet.contains('/')) {
                    continue;
                }
                let Some(part) = archive.reader(&name).map(BufReader::new) else {
                    continue;
                };
                if format == OfficeFormat::Xlsx {
                    sheets.read_xlsx(part)?;
                } else {
                    sheets.read_xlsb(part)?;
                }
            }
        }
        OfficeFormat::Ods | OfficeFormat::Sxc => {
            if let Some(part) = archive.reader("content.xml") {
                sheets.read_ods(BufReader::new(part))?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// Checks a workbook in one file of XML.
pub(super) fn check_flat(file: impl BufRead, max_pages: u32) -> Result<(), RenderError> {
    Sheets::of(max_pages).read_ods(file)
}

/// What is known of the sheets so far. Rows and columns are counted from 1.
struct Sheets {
    max_pages: u32,
    /// Cells with content, of all sheets.
    cells: u64,
    /// Of the present sheet.
    last_row: u64,
    last_column: u64,
}

impl Sheets {
    fn of(max_pages: u32) -> Self {
        Self {
            max_pages,
            cells: 0,
            last_row: 0,
            last_column: 0,
        }
    }

    fn start_sheet(&mut self) {
        (self.last_row, self.last_column) = (0, 0);
    }

    /// Counts cells with content that end here.
    fn count(&mut self, row: u64, column: u64, cells: u64) -> Result<(), RenderError> {
        self.last_row = self.last_row.max(row);
        self.last_column = self.last_column.max(column);
        self.cells = self.cells.saturating_add(cells);
        let area = self.last_row.saturating_mul(self.last_column);
        if area > MAX_AREA {
            return Err(RenderError::TooLarge(format!(
                "a sheet reaches to cell {}{}: of the {area} cells up to there, which would all be \
                 laid out, at most {MAX_AREA} are allowed. Remove what is far away from the rest",
                letters(self.last_column),
                self.last_row
            )));
        }
        let pages = u32::try_from(self.cells / PAGE_CELLS).unwrap_or(u32::MAX);
        if pages > self.max_pages {
            let limit = self.max_pages;
            return Err(RenderError::TooManyPages { pages, limit });
        }
        Ok(())
    }

    fn read_xlsx(&mut self, sheet: impl BufRead) -> Result<(), RenderError> {
        self.start_sheet();
        let (mut row, mut column) = (0_u64, 0_u64);
        each_tag(sheet, |tag| {
            let (Tag::Start(element) | Tag::Empty(element)) = &tag else {
                return Ok(());
            };
            match element.local_name().as_ref() {
                b"row" => {
                    row = number(element, b"r").unwrap_or(row.saturating_add(1));
                    column = 0;
                }
                b"c" => {
                    let place = text(element, b"r");
                    let place = place.as_deref().and_then(place_of);
                    (row, column) = place.unwrap_or((row, column.saturating_add(1)));
                    // A cell without content may have a format.
                    if matches!(tag, Tag::Start(_)) {
                        return self.count(row, column, 1);
                    }
                }
                _ => {}
            }
            Ok(())
        })
    }

    fn read_xlsb(&mut self, sheet: impl BufRead) -> Result<(), RenderError> {
        self.start_sheet();
        office_xlsb::each_cell(sheet, |row, column| self.count(row, column, 1))
    }

    fn read_ods(&mut self, content: impl BufRead) -> Result<(), RenderError> {
        let (mut row, mut column, mut rows) = (0_u64, 0_u64, 1_u64);
        each_tag(content, |tag| {
            let element = match &tag {
                Tag::End(name) => {
                    if name == b"table-row" {
                        row = row.saturating_add(rows);
                    }
                    return Ok(());
                }
                Tag::Text(_) => return Ok(()),
                Tag::Start(element) | Tag::Empty(element) => element,
            };
            match element.local_name().as_ref() {
                b"table" => {
                    self.start_sheet();
                    row = 0;
                }
                b"table-row" => {
                    rows = number(element, b"number-rows-repeated").unwrap_or(1);
                    column = 0;
                    if matches!(tag, Tag::Empty(_)) {
                        row = row.saturating_add(rows);
                    }
                }
                b"table-cell" | b"covered-table-cell" => {
                    let cells = number(element, b"number-columns-repeated").unwrap_or(1);
                    column = column.saturating_add(cells);
                    if text(element, b"value-type").is_some() {
                        let last = row.saturating_add(rows);
                        return self.count(last, column, cells.saturating_mul(rows));
                    }
                }
                _ => {}
            }
            Ok(())
        })
    }
}

/// Row and column of a cell by its name, for example `AB12`.
fn place_of(name: &str) -> Option<(u64, u64)> {
    let digits = name.find(|letter: char| letter.is_ascii_digit())?;
    let (letters, row) = name.split_at(digits);
    let mut column = 0_u64;
    for letter in letters.bytes() {
        let digit = letter.to_ascii_uppercase().checked_sub(b'A')?;
        column = column.checked_mul(26)?.checked_add(u64::from(digit) + 1)?;
    }
    Some((row.parse().ok()?, column))
}

/// The name of a column.
fn letters(mut column: u64) -> String {
    let mut name = Vec::new();
    while column > 0 {
        column -= 1;
        name.push(char::from(
            b'A' + u8::try_from(column % 26).unwrap_or_default(),
        ));
        column /= 26;
    }
    name.into_iter().rev().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn xlsx(content: &str, max_pages: u32) -> Result<(), RenderError> {
        Sheets::of(max_pages).read_xlsx(content.as_bytes())
    }

    fn ods(content: &str) -> Result<(), RenderError> {
        check_flat(content.as_bytes(), 5000)
    }

    #[test]
    fn cells_have_names() {
        for (name, place) in [
            ("A1", (1, 1)),
            ("Z9", (9, 26)),
            ("XFD1048576", (1_048_576, 16_384)),
        ] {
            assert_eq!(place_of(name), Some(place));
            assert_eq!(format!("{}{}", letters(place.1), place.0), name);
        }
        assert_eq!(place_of("1"), Some((1, 0)));
        assert_eq!(place_of("R1C1 "), None);
    }

    #[test]
    fn a_sheet_with_a_value_far_out_is_refused() {
        let far = "<sheetData><row r='1'><c r='A1'><v>1</v></c></row>\
            <row r='1048576'><c r='XFD1048576'><v>2</v></c></row></sheetData>";
        let error = xlsx(far, 5000).unwrap_err();
        assert_eq!(error.reason(), "TooLarge");
        assert!(error.to_string().contains("XFD1048576"), "{error}");
        // Only a format, or a long column.
        assert_eq!(
            xlsx("<row r='1048576'><c r='XFD1048576' s='1'/></row>", 5000),
            Ok(())
        );
        assert_eq!(
            xlsx(
                "<row><c><v>1</v></c></row><row r='1048576'><c><v>1</v></c></row>",
                9
            ),
            Ok(())
        );
        let row = format!("<row>{}</row>", "<c><v>1</v></c>".repeat(4000));
        assert_eq!(xlsx(&row.repeat(2), 2), Ok(()));
        let error = xlsx(&row.repeat(3), 2).unwrap_err();
        assert_eq!(error, RenderError::TooManyPages { pages: 3, limit: 2 });
    }

    #[test]
    fn a_binary_sheet_with_a_value_far_out_is_refused() {
        use office_xlsb::tests::record;

        let read = |sheet: &[Vec<u8>]| Sheets::of(1).read_xlsb(sheet.concat().as_slice());
        let far = [
            record(0, 0),
            record(5, 0),
            record(0, 1_048_575),
            record(5, 16_383),
        ];
        let error = read(&far).unwrap_err();
        assert_eq!(error.reason(), "TooLarge");
        assert!(error.to_string().contains("XFD1048576"), "{error}");
        assert_eq!(read(&far[..3]), Ok(()));
        let error = read(&vec![record(5, 0); 8000]).unwrap_err();
        assert_eq!(error, RenderError::TooManyPages { pages: 2, limit: 1 });
    }

    #[test]
    fn repeated_rows_and_cells_of_opendocument_count() {
        let sheet = |rows: u32, columns: u32| {
            format!(
                "<table:table><table:table-row table:number-rows-repeated='{rows}'/>\
                 <table:table-row><table:table-cell table:number-columns-repeated='{columns}'/>\
                 <table:table-cell office:value-type='string'><text:p>x</text:p></table:table-cell>\
                 </table:table-row><table:table-row table:number-rows-repeated='1048000'>\
                 <table:table-cell table:number-columns-repeated='16000'/></table:table-row>\
                 </table:table>"
            )
        };
        assert_eq!(ods(&sheet(1000, 1000)), Ok(()));
        let error = ods(&sheet(1_048_575, 16_383)).unwrap_err();
        assert!(error.to_string().contains("XFD1048576"), "{error}");
    }
}
