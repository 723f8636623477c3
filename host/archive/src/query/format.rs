//! Writes an answer as bytes: one JSON document, JSON lines, or CSV, piece by piece as it comes.
//!
//! An answer that breaks off says so where the format can: JSON and JSON lines end with the problem, CSV cannot, and
//! whoever sends it has to break off too.

use arrow_array::RecordBatch;
use arrow_schema::{DataType, SchemaRef, TimeUnit};
use serde_json::{Value, json};

use super::ReadTable;
use super::error::Error;

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `{"columns": […], "tables": […], "rows": [{…}, …], "row_count": n}`.
    Json,
    /// One object a line.
    JsonLines,
    /// Comma-separated values with a line of names.
    Csv,
}

impl Format {
    /// The media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::JsonLines => "application/x-ndjson",
            Self::Csv => "text/csv; charset=utf-8",
        }
    }

    /// The format of a word: `json`, `ndjson` or `jsonl`, `csv`.
    pub fn named(word: &str) -> Option<Self> {
        match word {
            "json" => Some(Self::Json),
            "ndjson" | "jsonl" => Some(Self::JsonLines),
            "csv" => Some(Self::Csv),
            _ => None,
        }
    }
}

/// Writes one answer.
#[derive(Debug)]
pub struct Encoder {
    format: Format,
    rows: u64,
}

impl Encoder {
    /// For one answer.
    pub fn new(format: Format) -> Self {
        Self { format, rows: 0 }
    }

    /// What stands before the rows.
    ///
    /// # Errors
    /// The format has no way to write one of the columns.
    pub fn begin(&self, schema: &SchemaRef, tables: &[ReadTable]) -> Result<Vec<u8>, Error> {
        match self.format {
            Format::Json => {
                let column = |field: &arrow_schema::FieldRef| json!({"name": field.name(), "type": type_name(field.data_type())});
                let columns: Vec<Value> = schema.fields().iter().map(column).collect();
                // Ids have 63 bits, more than a JavaScript number holds.
                let table =
                    |read: &ReadTable| json!({"table": read.table, "snapshot": read.snapshot.map(|id| id.to_string())});
                let tables: Vec<Value> = tables.iter().map(table).collect();
                Ok(format!("{{\"columns\":{},\"tables\":{},\"rows\":[", json!(columns), json!(tables)).into_bytes())
            }
            Format::JsonLines => Ok(Vec::new()),
            Format::Csv => {
                if let Some(nested) = schema.fields().iter().find(|field| field.data_type().is_nested()) {
                    let message = format!(
                        "CSV has no way to write `{}`, a {}: ask for JSON",
                        nested.name(),
                        type_name(nested.data_type())
                    );
                    return Err(Error::Invalid { message, at: None });
                }
                let empty = RecordBatch::new_empty(std::sync::Arc::clone(schema));
                csv(&empty, true)
            }
        }
    }

    /// Rows.
    ///
    /// # Errors
    /// The format has no way to write a value.
    pub fn rows(&mut self, batch: &RecordBatch) -> Result<Vec<u8>, Error> {
        let is_first = self.rows == 0;
        self.rows = self.rows.saturating_add(u64::try_from(batch.num_rows()).unwrap_or(u64::MAX));
        match self.format {
            Format::Csv => csv(batch, false),
            Format::JsonLines => lines(batch),
            Format::Json => {
                let mut text = lines(batch)?;
                text.pop();
                // Texts have their line feeds escaped: what is left stands between two rows.
                text.iter_mut().filter(|byte| **byte == b'\n').for_each(|byte| *byte = b',');
                if !is_first && !text.is_empty() {
                    text.insert(0, b',');
                }
                Ok(text)
            }
        }
    }

    /// What stands after the rows; `problem` is why there are no more.
    pub fn end(&self, problem: Option<&Value>) -> Vec<u8> {
        match (self.format, problem) {
            (Format::Json, None) => format!("],\"row_count\":{}}}\n", self.rows).into_bytes(),
            (Format::Json, Some(problem)) => {
                format!("],\"row_count\":{},\"problem\":{problem}}}\n", self.rows).into_bytes()
            }
            (Format::JsonLines, Some(problem)) => format!("{}\n", json!({"problem": problem})).into_bytes(),
            (Format::JsonLines | Format::Csv, _) => Vec::new(),
        }
    }
}

fn lines(batch: &RecordBatch) -> Result<Vec<u8>, Error> {
    let builder = arrow_json::WriterBuilder::new().with_explicit_nulls(true);
    let mut writer = builder.build::<_, arrow_json::writer::LineDelimited>(Vec::new());
    writer.write(batch).and_then(|()| writer.finish()).map_err(unwritable)?;
    Ok(writer.into_inner())
}

fn csv(batch: &RecordBatch, with_names: bool) -> Result<Vec<u8>, Error> {
    let mut writer = arrow_csv::WriterBuilder::new().with_header(with_names).build(Vec::new());
    writer.write(batch).map_err(unwritable)?;
    Ok(writer.into_inner())
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn unwritable(error: arrow_schema::ArrowError) -> Error {
    Error::Invalid { message: error.to_string(), at: None }
}

/// The rows as texts, for people; a null is `-`.
///
/// # Errors
/// A value cannot be shown.
pub fn texts(batch: &RecordBatch) -> Result<Vec<Vec<String>>, Error> {
    let options = arrow_cast::display::FormatOptions::default().with_null("-");
    let columns = batch.columns().iter().map(|column| arrow_cast::display::ArrayFormatter::try_new(column, &options));
    let columns = columns.collect::<Result<Vec<_>, _>>().map_err(unwritable)?;
    Ok((0..batch.num_rows()).map(|row| columns.iter().map(|column| column.value(row).to_string()).collect()).collect())
}

/// What a column's type is called, as in Iceberg.
pub fn type_name(of_type: &DataType) -> String {
    match of_type {
        DataType::Boolean => "boolean".to_owned(),
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::UInt8 | DataType::UInt16 => "int".to_owned(),
        DataType::Int64 | DataType::UInt32 | DataType::UInt64 => "long".to_owned(),
        DataType::Float16 | DataType::Float32 => "float".to_owned(),
        DataType::Float64 => "double".to_owned(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "string".to_owned(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            "binary".to_owned()
        }
        DataType::Date32 | DataType::Date64 => "date".to_owned(),
        DataType::Time32(_) | DataType::Time64(_) => "time".to_owned(),
        DataType::Timestamp(TimeUnit::Nanosecond, None) => "timestamp_ns".to_owned(),
        DataType::Timestamp(TimeUnit::Nanosecond, Some(_)) => "timestamptz_ns".to_owned(),
        DataType::Timestamp(_, None) => "timestamp".to_owned(),
        DataType::Timestamp(_, Some(_)) => "timestamptz".to_owned(),
        DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale) => {
            format!("decimal({precision},{scale})")
        }
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            format!("list<{}>", type_name(item.data_type()))
        }
        DataType::Struct(_) => "struct".to_owned(),
        DataType::Map(..) => "map".to_owned(),
        DataType::Dictionary(_, value) => type_name(value),
        other => other.to_string().to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{Float64Array, StringArray, TimestampMicrosecondArray};
    use arrow_schema::{Field, Schema};

    use super::*;

    fn batch() -> RecordBatch {
        let schema = Schema::new(vec![
            Field::new("s", DataType::Utf8, true),
            Field::new("v", DataType::Float64, true),
            Field::new("t", DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())), true),
        ]);
        let times = TimestampMicrosecondArray::from(vec![Some(1_500_000), None]).with_timezone("+00:00");
        RecordBatch::try_new(
            Arc::new(schema),
            vec![
                Arc::new(StringArray::from(vec![Some("a\nb,\"c\""), None])),
                Arc::new(Float64Array::from(vec![Some(1.5), Some(f64::NAN)])),
                Arc::new(times),
            ],
        )
        .unwrap()
    }

    fn written(format: Format, batches: &[RecordBatch], problem: Option<&Value>) -> String {
        let mut encoder = Encoder::new(format);
        let tables = [ReadTable { table: "a".to_owned(), snapshot: Some(i64::MAX) }];
        let mut text = encoder.begin(&batch().schema(), &tables).unwrap();
        for batch in batches {
            text.extend(encoder.rows(batch).unwrap());
        }
        text.extend(encoder.end(problem));
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn json_is_one_document_whatever_comes() {
        for (batches, rows) in [(vec![], 0), (vec![batch()], 2), (vec![batch(), batch()], 4)] {
            let document: Value = serde_json::from_str(&written(Format::Json, &batches, None)).unwrap();
            assert_eq!(document["row_count"], rows);
            assert_eq!(document["rows"].as_array().map(Vec::len), Some(rows));
            assert_eq!(document["tables"][0]["snapshot"], "9223372036854775807");
            assert_eq!(document["columns"][2]["type"], "timestamptz");
            if rows > 0 {
                assert_eq!(document["rows"][0]["s"], "a\nb,\"c\"");
                assert_eq!(document["rows"][0]["t"], "1970-01-01T00:00:01.500Z");
                assert_eq!(document["rows"][1], json!({"s": null, "v": null, "t": null}));
            }
        }
        let problem = json!({"code": "PH6066"});
        let broken: Value = serde_json::from_str(&written(Format::Json, &[batch()], Some(&problem))).unwrap();
        assert_eq!(broken["problem"]["code"], "PH6066");
    }

    #[test]
    fn lines_and_csv_have_a_row_each() {
        let text = written(Format::JsonLines, &[batch()], Some(&json!({"code": "PH6066"})));
        assert_eq!(text.lines().count(), 3);
        assert_eq!(text.lines().last(), Some("{\"problem\":{\"code\":\"PH6066\"}}"));
        let text = written(Format::Csv, &[batch()], None);
        assert!(text.starts_with("s,v,t\n\"a\nb,\"\"c\"\"\",1.5,1970-01-01T00:00:01.500Z\n"), "{text}");
    }
}
