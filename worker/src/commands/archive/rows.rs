//! Rows of a collection as a Parquet file: one column for each field, in LAYRA's names. No I/O.
//!
//! `vector` is a list of 32-bit floats, so that pandas and polars read it without a schema. The
//! values are compressed with Zstandard: models compute in 16 bits, and half of each float is zero.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use parquet::basic::{Compression, ZstdLevel};
use parquet::column::reader::get_typed_column_reader;
use parquet::data_type::{ByteArray, ByteArrayType, DataType, FloatType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, RowGroupReader};
use parquet::file::serialized_reader::SerializedFileReader;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::TypePtr;

use crate::stores::milvus::Row;

static SCHEMA: LazyLock<TypePtr> = LazyLock::new(|| {
    let schema = parse_message_type(
        "message rows {
            required int64 pk;
            required binary image_id (STRING);
            required int64 page_number;
            required binary file_id (STRING);
            required group vector (LIST) { repeated group list { required float element; } }
        }",
    );
    Arc::new(schema.unwrap_or_else(|error| unreachable!("the schema is constant: {error}")))
});

/// Writes rows as a file. All vectors have the same width.
pub(super) fn encode(rows: &[Row]) -> Result<Bytes, ParquetError> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_created_by("layra-worker".to_owned())
        .build();
    let mut file = SerializedFileWriter::new(Vec::new(), SCHEMA.clone(), Arc::new(properties))?;
    let mut group = file.next_row_group()?;
    let text = |value: fn(&Row) -> &str| -> Vec<ByteArray> {
        rows.iter().map(|row| value(row).into()).collect()
    };
    let pks: Vec<i64> = rows.iter().map(|row| row.pk).collect();
    let pages: Vec<i64> = rows.iter().map(|row| row.page).collect();
    write::<Int64Type>(&mut group, &pks, None)?;
    write::<ByteArrayType>(&mut group, &text(|row| &row.image_id), None)?;
    write::<Int64Type>(&mut group, &pages, None)?;
    write::<ByteArrayType>(&mut group, &text(|row| &row.file_id), None)?;
    let values: Vec<f32> = rows.iter().flat_map(|row| &row.vector).copied().collect();
    // The first value of a vector begins a list, the others continue it.
    let repetitions: Vec<i16> = rows
        .iter()
        .flat_map(|row| (0..row.vector.len()).map(|index| i16::from(index > 0)))
        .collect();
    write::<FloatType>(&mut group, &values, Some(&repetitions))?;
    group.close()?;
    Ok(file.into_inner()?.into())
}

fn write<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, Vec<u8>>,
    values: &[T::T],
    repetitions: Option<&[i16]>,
) -> Result<(), ParquetError> {
    let column = group.next_column()?;
    let mut column = column.ok_or_else(|| general("the schema has no further column"))?;
    let definitions = repetitions.map(|levels| vec![1; levels.len()]);
    column
        .typed::<T>()
        .write_batch(values, definitions.as_deref(), repetitions)?;
    column.close()
}

/// Reads the rows of a file that [`encode`] wrote.
pub(super) fn decode(file: Bytes) -> Result<Vec<Row>, ParquetError> {
    let reader = SerializedFileReader::new(file)?;
    let mut rows = Vec::new();
    for group in 0..reader.num_row_groups() {
        let group = reader.get_row_group(group)?;
        let (pks, _) = read::<Int64Type>(group.as_ref(), 0)?;
        let (images, _) = read::<ByteArrayType>(group.as_ref(), 1)?;
        let (pages, _) = read::<Int64Type>(group.as_ref(), 2)?;
        let (files, _) = read::<ByteArrayType>(group.as_ref(), 3)?;
        let (values, repetitions) = read::<FloatType>(group.as_ref(), 4)?;
        let vectors = vectors(&values, &repetitions)?;
        let counts = [images.len(), pages.len(), files.len(), vectors.len()];
        if counts.iter().any(|count| *count != pks.len()) {
            return Err(general("the columns differ in length"));
        }
        let columns = pks.into_iter().zip(images).zip(pages).zip(files);
        for ((((pk, image_id), page), file_id), vector) in columns.zip(vectors) {
            rows.push(Row {
                pk,
                image_id: image_id.as_utf8()?.to_owned(),
                page,
                file_id: file_id.as_utf8()?.to_owned(),
                vector,
            });
        }
    }
    Ok(rows)
}

/// Values and repetition levels of a column.
fn read<T: DataType>(
    group: &dyn RowGroupReader,
    column: usize,
) -> Result<(Vec<T::T>, Vec<i16>), ParquetError> {
    let count = usize::try_from(group.metadata().num_rows()).unwrap_or_default();
    let mut reader = get_typed_column_reader::<T>(group.get_column_reader(column)?);
    let (mut values, mut repetitions, mut definitions) = (Vec::new(), Vec::new(), Vec::new());
    let (read, ..) = reader.read_records(
        count,
        Some(&mut definitions),
        Some(&mut repetitions),
        &mut values,
    )?;
    if read == count {
        Ok((values, repetitions))
    } else {
        Err(general("a column is incomplete"))
    }
}

fn vectors(values: &[f32], repetitions: &[i16]) -> Result<Vec<Vec<f32>>, ParquetError> {
    if values.len() != repetitions.len() {
        return Err(general("a vector is empty"));
    }
    let mut vectors: Vec<Vec<f32>> = Vec::new();
    for (value, repetition) in values.iter().zip(repetitions) {
        match vectors.last_mut() {
            Some(vector) if *repetition > 0 => vector.push(*value),
            _ => vectors.push(vec![*value]),
        }
    }
    Ok(vectors)
}

fn general(message: &str) -> ParquetError {
    ParquetError::General(message.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bits(rows: &[Row]) -> Vec<Vec<u32>> {
        let bits = |row: &Row| row.vector.iter().map(|value| value.to_bits()).collect();
        rows.iter().map(bits).collect()
    }

    fn any_row(dimensions: usize) -> impl Strategy<Value = Row> {
        let vector = proptest::collection::vec(any::<u32>(), dimensions);
        (any::<i64>(), ".{0,20}", any::<i64>(), ".{0,20}", vector).prop_map(
            |(pk, image_id, page, file_id, bits)| Row {
                pk,
                image_id,
                page,
                file_id,
                vector: bits.into_iter().map(f32::from_bits).collect(),
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Every field comes back, vectors to the bit: also values that are no numbers.
        #[test]
        fn rows_are_read_as_they_were_written(
            rows in (1..40_usize).prop_flat_map(|dimensions| {
                proptest::collection::vec(any_row(dimensions), 0..40)
            }),
        ) {
            let read = decode(encode(&rows).unwrap()).unwrap();
            prop_assert_eq!(bits(&read), bits(&rows));
            let others = |rows: &[Row]| -> Vec<Row> {
                rows.iter().cloned().map(|row| Row { vector: Vec::new(), ..row }).collect()
            };
            prop_assert_eq!(others(&read), others(&rows));
        }

        #[test]
        fn a_file_that_is_cut_is_an_error(length in any::<proptest::sample::Index>()) {
            let row = Row {
                pk: 1, image_id: "i".into(), page: 0, file_id: "f".into(), vector: vec![0.5; 8],
            };
            let whole = encode(&vec![row; 20]).unwrap();
            let cut = whole.slice(..length.index(whole.len()));
            prop_assert!(decode(cut).is_err());
        }
    }

    #[test]
    fn zeros_in_the_lower_halves_of_floats_are_compressed() {
        let rows: Vec<Row> = (0..2_000_u32)
            .map(|index| Row {
                pk: index.into(),
                image_id: format!("u_{}", index / 700),
                page: (index / 700).into(),
                file_id: "u_f".into(),
                vector: (0..128_u32)
                    .map(|at| f32::from_bits((index * 7919 + at * 104_729) << 16 & 0x3fff_0000))
                    .collect(),
            })
            .collect();
        let bytes = encode(&rows).unwrap().len();
        assert!(bytes < rows.len() * 128 * 3, "{bytes}");
    }
}
