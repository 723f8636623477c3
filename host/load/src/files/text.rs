//! Text that becomes JSON: strings, and cells by the type of their column.
//!
//! A cell that does not fit its type stays a JSON string, so that the gate refuses it with its reason and nothing is lost.

use phronis_core::plugin::FieldType;
use serde::de::IgnoredAny;

/// Appends a JSON string. Bytes that are not UTF-8 go through as they are: refusing them is the gate's work.
pub(super) fn write_text(out: &mut Vec<u8>, text: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    let mut rest = text;
    while let Some(at) = rest.iter().position(|&byte| matches!(byte, b'"' | b'\\' | 0..=0x1f)) {
        let (plain, special) = rest.split_at(at);
        out.extend_from_slice(plain);
        let Some((&byte, behind)) = special.split_first() else { break };
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => {
                out.extend_from_slice(b"\\u00");
                out.extend([byte >> 4, byte & 15].iter().filter_map(|&digit| HEX.get(usize::from(digit))));
            }
        }
        rest = behind;
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

/// Appends a cell as JSON, or nothing and false when it is empty and no text.
pub(super) fn write_cell(out: &mut Vec<u8>, cell: &[u8], of_type: Option<FieldType>) -> bool {
    let trimmed = cell.trim_ascii();
    if trimmed.is_empty() && of_type != Some(FieldType::Text) {
        return false;
    }
    let is_written = match of_type {
        Some(FieldType::Number) => write_number(out, trimmed),
        Some(FieldType::Integer) => write_integer(out, trimmed) || write_number(out, trimmed),
        Some(FieldType::Boolean) => write_boolean(out, trimmed),
        Some(FieldType::Timestamp) => write_if(out, trimmed, is_json_number(trimmed)),
        Some(FieldType::Texts | FieldType::Numbers) => {
            let is_list = trimmed.starts_with(b"[") && serde_json::from_slice::<IgnoredAny>(trimmed).is_ok();
            // A pretty-printed list must not tear the row apart.
            write_if(out, trimmed, is_list && !trimmed.contains(&b'\n'))
        }
        Some(FieldType::Text | FieldType::Binary) | None => false,
    };
    if !is_written {
        write_text(out, cell);
    }
    true
}

/// Whether the text is a number in JSON's own grammar.
pub(super) fn is_json_number(text: &[u8]) -> bool {
    let is_digits = |text: &[u8]| !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let text = text.strip_prefix(b"-").unwrap_or(text);
    let (mantissa, exponent) = match text.iter().position(|byte| matches!(byte, b'e' | b'E')) {
        Some(at) => (text.get(..at), text.get(at + 1..)),
        None => (Some(text), None),
    };
    let Some(mantissa) = mantissa else { return false };
    let (whole, fraction) = match mantissa.iter().position(|&byte| byte == b'.') {
        Some(at) => (mantissa.get(..at).unwrap_or_default(), mantissa.get(at + 1..)),
        None => (mantissa, None),
    };
    is_digits(whole)
        && (whole.len() == 1 || !whole.starts_with(b"0"))
        && fraction.is_none_or(is_digits)
        && exponent
            .is_none_or(|text| is_digits(text.strip_prefix(b"-").or_else(|| text.strip_prefix(b"+")).unwrap_or(text)))
}

fn write_if(out: &mut Vec<u8>, text: &[u8], is_fit: bool) -> bool {
    if is_fit {
        out.extend_from_slice(text);
    }
    is_fit
}

/// Digits go through untouched; other spellings of a number (`+1`, `.5`, `007`) are respelt.
fn write_number(out: &mut Vec<u8>, text: &[u8]) -> bool {
    if is_json_number(text) {
        return write_if(out, text, true);
    }
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse::<f64>().ok());
    match number.and_then(serde_json::Number::from_f64) {
        Some(number) => write_if(out, number.to_string().as_bytes(), true),
        None => false,
    }
}

fn write_integer(out: &mut Vec<u8>, text: &[u8]) -> bool {
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse::<i64>().ok());
    number.is_some_and(|number| write_if(out, number.to_string().as_bytes(), true))
}

fn write_boolean(out: &mut Vec<u8>, text: &[u8]) -> bool {
    let is_one_of = |words: &[&[u8]]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
    if is_one_of(&[b"true", b"t", b"yes", b"y", b"1"]) {
        return write_if(out, b"true", true);
    }
    write_if(out, b"false", is_one_of(&[b"false", b"f", b"no", b"n", b"0"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_becomes_what_its_column_says_or_stays_text() {
        use FieldType::{Boolean, Integer, Number, Numbers, Text, Timestamp};
        let check = |of_type, cell: &str, expect: Option<&str>| {
            let mut out = Vec::new();
            let is_written = write_cell(&mut out, cell.as_bytes(), of_type);
            assert_eq!(is_written.then(|| String::from_utf8(out).unwrap()).as_deref(), expect, "{of_type:?} {cell}");
        };
        check(Some(Number), "21.50", Some("21.50"));
        check(Some(Number), "-0", Some("-0"));
        check(Some(Number), "1e5", Some("1e5"));
        check(Some(Number), "12345678901234567890123", Some("12345678901234567890123"));
        check(Some(Number), " 7 ", Some("7"));
        check(Some(Number), "+.5", Some("0.5"));
        check(Some(Number), "5.", Some("5.0"));
        check(Some(Number), "NaN", Some("\"NaN\""));
        check(Some(Number), "1e999", Some("1e999"));
        check(Some(Number), "hot", Some("\"hot\""));
        check(Some(Number), "1,5", Some("\"1,5\""));
        check(Some(Number), "", None);
        check(Some(Integer), "007", Some("7"));
        check(Some(Integer), "7.5", Some("7.5"));
        check(Some(Integer), "0x10", Some("\"0x10\""));
        check(Some(Boolean), "TRUE", Some("true"));
        check(Some(Boolean), "0", Some("false"));
        check(Some(Boolean), "maybe", Some("\"maybe\""));
        check(Some(Timestamp), "1700000000000", Some("1700000000000"));
        check(Some(Timestamp), "2013-12-02 21:15:00", Some("\"2013-12-02 21:15:00\""));
        check(Some(Numbers), "[1, 2]", Some("[1, 2]"));
        check(Some(Numbers), "[1, ", Some("\"[1, \""));
        check(Some(Text), "", Some("\"\""));
        check(Some(Text), "a\"b\\c\nd\u{1}", Some("\"a\\\"b\\\\c\\nd\\u0001\""));
        check(None, "42", Some("\"42\""));
        check(None, "", None);
    }

    #[test]
    fn only_json_spells_numbers_like_json() {
        for good in ["0", "-1", "10", "1.0", "1e9", "1E+9", "-0.5e-3"] {
            assert!(is_json_number(good.as_bytes()), "{good}");
            assert!(serde_json::from_str::<f64>(good).is_ok(), "{good}");
        }
        for bad in ["", "-", "01", "1.", ".1", "1e", "1e+", "+1", "0x1", "1 2", "e5", "NaN"] {
            assert!(!is_json_number(bad.as_bytes()), "{bad}");
        }
    }
}
