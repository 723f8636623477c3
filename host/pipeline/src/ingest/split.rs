//! Cuts a request body into events without judging them.

use serde_json::value::RawValue;

use super::{Error, Form};

/// The rows of a body: the elements of an array, the lines, or the whole as one.
///
/// A body is one event when its first line is the beginning of a JSON value that goes on in the next line;
/// otherwise every line is an event, good or bad. Empty lines are not events.
pub(crate) fn split(body: &[u8], form: Form) -> Result<Vec<&[u8]>, Error> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body).trim_ascii();
    match (form, body.first()) {
        (_, None) => Ok(Vec::new()),
        (Form::Auto, Some(b'[')) => array(body),
        (Form::Auto, _) if is_one(body) => Ok(vec![body]),
        _ => Ok(lines(body)),
    }
}

fn array(body: &[u8]) -> Result<Vec<&[u8]>, Error> {
    let elements: Vec<&RawValue> = serde_json::from_slice(body).map_err(|error| Error::NotSplittable {
        reason: format!("it begins with `[` and is not a JSON array: {error}"),
    })?;
    Ok(elements.into_iter().map(|element| element.get().as_bytes()).collect())
}

fn lines(body: &[u8]) -> Vec<&[u8]> {
    let mut rows = Vec::with_capacity(body.len() / 64);
    let mut rest = body;
    while !rest.is_empty() {
        let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        let (line, after) = rest.split_at(end);
        let line = line.trim_ascii();
        if !line.is_empty() {
            rows.push(line);
        }
        rest = after.get(1..).unwrap_or_default();
    }
    rows
}

/// Whether the first line is not a whole value yet, but could become one.
fn is_one(body: &[u8]) -> bool {
    let Some(end) = memchr::memchr(b'\n', body) else { return true };
    let (first, _) = body.split_at(end);
    serde_json::from_slice::<&RawValue>(first).is_err_and(|error| error.is_eof())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, form: Form, expect: &[&str]) {
        let rows = split(body.as_bytes(), form).unwrap();
        let rows: Vec<_> = rows.into_iter().map(|row| str::from_utf8(row).unwrap()).collect();
        assert_eq!(rows, expect, "{body:?}");
    }

    #[test]
    fn a_body_is_cut_as_a_person_would_cut_it() {
        use Form::{Auto, Lines};
        check(r#"{"a":1}"#, Auto, &[r#"{"a":1}"#]);
        check("{\"a\":1}\n{\"a\":2}\r\n\n{\"a\":3}\n", Auto, &[r#"{"a":1}"#, r#"{"a":2}"#, r#"{"a":3}"#]);
        check("{\n \"a\": 1\n}\n", Auto, &["{\n \"a\": 1\n}"]);
        check("[{\"a\":1}, 7,\n\"x\"]", Auto, &[r#"{"a":1}"#, "7", "\"x\""]);
        check("\u{feff}{\"a\":1}", Auto, &[r#"{"a":1}"#]);
        check("not json\n{\"a\":1}", Auto, &["not json", r#"{"a":1}"#]);
        check("[1]\n[2]", Lines, &["[1]", "[2]"]);
        check("", Auto, &[]);
        check(" \n ", Lines, &[]);
        check("[]", Auto, &[]);
    }

    #[test]
    fn a_broken_array_is_refused_as_a_whole() {
        for body in ["[1,2", "[{\"a\":1},]", "[1] [2]", "[\"\u{1}\"]"] {
            let error = split(body.as_bytes(), Form::Auto).unwrap_err();
            assert!(matches!(error, Error::NotSplittable { .. }), "{body}: {error}");
        }
    }
}
