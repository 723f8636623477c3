//! From JSON rows to the columns of a batch, and from added columns back to JSON.

use serde_json::Value as Json;

use crate::{Column, Field, FieldType, NumberLists, TextColumn, TextLists, Values};

/// The value at a path: a member of that very name, or else one step a dot. Null where there is nothing.
pub(super) fn find<'a>(event: &'a Json, path: &str) -> &'a Json {
    if let Some(value) = event.get(path) {
        return value;
    }
    path.split('.').try_fold(event, |value, part| value.get(part)).unwrap_or(&Json::Null)
}

/// The column of a field, from all rows.
pub(super) fn column(field: &Field, events: &[&Json]) -> Result<Column, String> {
    let cells: Vec<&Json> = events.iter().map(|event| find(event, &field.path)).collect();
    let wrong = |cell: &Json| format!("field `{}` must be {:?}, it is {cell}", field.path, field.of_type);
    let values = match field.of_type {
        FieldType::Boolean => {
            let cells: Vec<bool> = each(&cells, Json::as_bool, wrong)?;
            Values::Boolean(bits(cells.into_iter()))
        }
        FieldType::Integer => Values::Integer(each(&cells, Json::as_i64, wrong)?),
        FieldType::Number => Values::Number(each(&cells, Json::as_f64, wrong)?),
        FieldType::Timestamp => Values::Timestamp(each(&cells, timestamp, wrong)?),
        FieldType::Text => {
            let cells: Vec<&str> = each(&cells, |cell| cell.as_str(), wrong)?;
            Values::Text(texts(cells.into_iter().map(str::as_bytes))?)
        }
        FieldType::Binary => {
            let cells: Vec<&str> = each(&cells, |cell| cell.as_str(), wrong)?;
            Values::Binary(texts(cells.into_iter().map(str::as_bytes))?)
        }
        FieldType::Texts => {
            let lists: Vec<Vec<&str>> =
                each(&cells, |cell| cell.as_array()?.iter().map(Json::as_str).collect(), wrong)?;
            let items = texts(lists.iter().flatten().map(|item| item.as_bytes()))?;
            Values::Texts(TextLists { offsets: offsets(lists.iter().map(Vec::len))?, items })
        }
        FieldType::Numbers => {
            let lists: Vec<Vec<f64>> = each(&cells, |cell| cell.as_array()?.iter().map(Json::as_f64).collect(), wrong)?;
            let offsets = offsets(lists.iter().map(Vec::len))?;
            Values::Numbers(NumberLists { offsets, items: lists.into_iter().flatten().collect() })
        }
    };
    let has_null = cells.iter().any(|cell| cell.is_null());
    let validity = has_null.then(|| bits(cells.iter().map(|cell| !cell.is_null())));
    Ok(Column { validity, values })
}

/// Whether a column is as announced.
pub(super) fn fits(column: &Column, of_type: FieldType, rows: usize) -> bool {
    if column.validity.as_ref().is_some_and(|bits| bits.len() != rows.div_ceil(8)) {
        return false;
    }
    match (&column.values, of_type) {
        (Values::Boolean(values), FieldType::Boolean) => values.len() == rows.div_ceil(8),
        (Values::Integer(values), FieldType::Integer) => values.len() == rows,
        (Values::Number(values), FieldType::Number) => values.len() == rows,
        (Values::Timestamp(values), FieldType::Timestamp) => values.len() == rows,
        (Values::Text(values), FieldType::Text) | (Values::Binary(values), FieldType::Binary) => {
            values.offsets.len() == rows + 1
                && values.offsets.last().map(|end| *end as usize) == Some(values.data.len())
        }
        (Values::Texts(lists), FieldType::Texts) => lists.offsets.len() == rows + 1,
        (Values::Numbers(lists), FieldType::Numbers) => lists.offsets.len() == rows + 1,
        _ => false,
    }
}

/// One value of an added column. Lists are not added by the derive and read as null.
pub(super) fn cell(column: &Column, row: usize) -> Json {
    let is_set = |bits: &[u8]| bits.get(row / 8).is_some_and(|byte| byte >> (row % 8) & 1 == 1);
    if column.validity.as_deref().is_some_and(|bits| !is_set(bits)) {
        return Json::Null;
    }
    match &column.values {
        Values::Boolean(values) => Json::from(is_set(values)),
        Values::Integer(values) | Values::Timestamp(values) => values.get(row).copied().into(),
        Values::Number(values) => values.get(row).copied().into(),
        Values::Text(texts) | Values::Binary(texts) => text(texts, row).into(),
        Values::Texts(_) | Values::Numbers(_) => Json::Null,
    }
}

fn each<'a, T: Default>(
    cells: &[&'a Json],
    read: impl Fn(&'a Json) -> Option<T>,
    wrong: impl Fn(&Json) -> String,
) -> Result<Vec<T>, String> {
    let read = |cell: &&'a Json| if cell.is_null() { Ok(T::default()) } else { read(cell).ok_or_else(|| wrong(cell)) };
    cells.iter().map(read).collect()
}

fn bits(values: impl Iterator<Item = bool>) -> Vec<u8> {
    let values: Vec<bool> = values.collect();
    let byte = |bits: &[bool]| bits.iter().rev().fold(0, |byte, bit| byte << 1 | u8::from(*bit));
    values.chunks(8).map(byte).collect()
}

fn texts<'a>(cells: impl Iterator<Item = &'a [u8]>) -> Result<TextColumn, String> {
    let cells: Vec<_> = cells.collect();
    Ok(TextColumn { offsets: offsets(cells.iter().map(|cell| cell.len()))?, data: cells.concat() })
}

fn offsets(lengths: impl Iterator<Item = usize>) -> Result<Vec<u32>, String> {
    let mut offsets = vec![0];
    let mut end = 0;
    for length in lengths {
        end += length;
        offsets.push(u32::try_from(end).map_err(|_| "the rows hold more than 4 GiB".to_owned())?);
    }
    Ok(offsets)
}

fn text(texts: &TextColumn, row: usize) -> Option<String> {
    let (from, to) = (*texts.offsets.get(row)?, *texts.offsets.get(row + 1)?);
    Some(String::from_utf8_lossy(texts.data.get(from as usize..to as usize)?).into_owned())
}

/// Microseconds, or `2026-01-31T12:00:00Z` with an optional fraction.
fn timestamp(cell: &Json) -> Option<i64> {
    if let Some(micros) = cell.as_i64() {
        return Some(micros);
    }
    let (date, time) = cell.as_str()?.strip_suffix('Z')?.split_once('T')?;
    let (seconds, fraction) = time.split_once('.').unwrap_or((time, ""));
    let date = numbers(date, '-')?;
    let time = numbers(seconds, ':')?;
    let fraction: i64 = format!("{fraction:0<6}").get(..6)?.parse().ok()?;
    let [year, month, day] = date;
    // Days since 1970-01-01, years counted from March: Howard Hinnant, "chrono-compatible low-level date algorithms".
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    Some((((days * 24 + time[0]) * 60 + time[1]) * 60 + time[2]) * 1_000_000 + fraction)
}

fn numbers(text: &str, separator: char) -> Option<[i64; 3]> {
    let parts: Option<Vec<i64>> = text.split(separator).map(|part| part.parse().ok()).collect();
    parts?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_time_reads_as_microseconds() {
        assert_eq!(timestamp(&json!("1970-01-01T00:00:01.5Z")), Some(1_500_000));
        assert_eq!(timestamp(&json!("2024-02-29T12:00:00Z")), Some(1_709_208_000_000_000));
        assert_eq!(timestamp(&json!("yesterday")), None);
    }

    #[test]
    fn a_path_finds_members_and_nested_members() {
        let event = json!({"a": {"b": 1}, "$header.x": "y"});
        assert_eq!(find(&event, "a.b"), &json!(1));
        assert_eq!(find(&event, "$header.x"), &json!("y"));
        assert_eq!(find(&event, "a.c"), &Json::Null);
    }
}
