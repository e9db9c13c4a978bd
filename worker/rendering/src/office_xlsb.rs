//! The cells of a sheet in Excel's binary workbooks (MS-XLSB): records of a type, a length and a
//! content. Runs in the renderer.

use std::io::{self, BufRead, Read};

use super::RenderError;

/// The record that begins a row. Its content begins with the number of the row, from 0.
const ROW: u32 = 0;
/// Records of cells with content, and without (a format only). They begin with the number of the
/// column, from 0.
const CELLS: std::ops::RangeInclusive<u32> = 2..=11;
const RICH_TEXT: u32 = 62;

/// Calls `each` for every cell with content, with its row and column, counted from 1. What is
/// invalid is left for LibreOffice to judge.
pub(super) fn each_cell(
    mut sheet: impl BufRead,
    mut each: impl FnMut(u64, u64) -> Result<(), RenderError>,
) -> Result<(), RenderError> {
    let mut row = 0;
    while let Ok(Some((kind, length))) = header(&mut sheet) {
        let mut content = (&mut sheet).take(u64::from(length));
        if kind == ROW || CELLS.contains(&kind) || kind == RICH_TEXT {
            let mut number = [0; 4];
            if content.read_exact(&mut number).is_err() {
                break;
            }
            let number = u64::from(u32::from_le_bytes(number)) + 1;
            if kind == ROW {
                row = number;
            } else {
                each(row, number)?;
            }
        }
        if io::copy(&mut content, &mut io::sink()).is_err() {
            break;
        }
    }
    Ok(())
}

/// Type and length of the next record. `None` at the end.
fn header(sheet: &mut impl Read) -> io::Result<Option<(u32, u32)>> {
    let Some(kind) = number(sheet, 2)? else {
        return Ok(None);
    };
    let length = number(sheet, 4)?;
    Ok(length.map(|length| (kind, length)))
}

/// A variable-length number of at most `most` bytes: seven bits in each, the lowest first. The top bit
/// says that another byte follows. `None`: the sheet ends.
fn number(sheet: &mut impl Read, most: u32) -> io::Result<Option<u32>> {
    let mut number = 0;
    for place in 0..most {
        let mut byte = [0];
        if sheet.read(&mut byte)? == 0 {
            return Ok(None);
        }
        number |= u32::from(byte[0] & 0x7f) << (7 * place);
        if byte[0] & 0x80 == 0 {
            break;
        }
    }
    Ok(Some(number))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A record of which only the first number matters.
    pub(crate) fn record(kind: u8, number: u32) -> Vec<u8> {
        let mut record = vec![kind, 12];
        record.extend(number.to_le_bytes());
        record.extend([0; 8]);
        record
    }

    fn cells(sheet: &[u8]) -> Vec<(u64, u64)> {
        let mut cells = Vec::new();
        each_cell(sheet, |row, column| {
            cells.push((row, column));
            Ok(())
        })
        .unwrap();
        cells
    }

    #[test]
    fn cells_have_the_row_before_them() {
        let sheet = [
            // A long type and a long length.
            [vec![0x81, 0x01, 0x82, 0x01], vec![7; 130]].concat(),
            record(0, 0),
            record(7, 0),
            // Only a format.
            record(1, 500),
            record(62, 2),
            record(0, 1_048_575),
            record(5, 16_383),
        ]
        .concat();
        let expected = [(1, 1), (1, 3), (1_048_576, 16_384)];
        assert_eq!(cells(&sheet), expected);
        for end in 0..sheet.len() {
            let found = cells(&sheet[..end]);
            assert!(expected.starts_with(&found), "{end}");
        }
    }
}
