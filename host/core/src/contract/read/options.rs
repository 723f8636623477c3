//! The gate rules of one property: `logicalTypeOptions`, the library rule `invalidValues`, and `phronis.enum`.

use regex::Regex;

use super::custom_properties;
use super::place::{Found, Place};
use crate::contract::yaml::Value;
use crate::contract::{Format, OneOf, Range, Rules};
use crate::plugin::FieldType;
use crate::text::did_you_mean;
use crate::time;

/// String formats of ODCS; those that [`Format`] does not know are documentation.
const FORMATS: [&str; 9] = ["password", "byte", "binary", "email", "uuid", "uri", "hostname", "ipv4", "ipv6"];

fn known(logical_type: &str) -> &'static [&'static str] {
    match logical_type {
        "string" => &["format", "maxLength", "minLength", "pattern"],
        "integer" | "number" => &["exclusiveMaximum", "exclusiveMinimum", "format", "maximum", "minimum", "multipleOf"],
        "timestamp" | "date" => {
            &["exclusiveMaximum", "exclusiveMinimum", "format", "maximum", "minimum", "timezone", "defaultTimezone"]
        }
        "time" => &["format", "timezone", "defaultTimezone"],
        "array" => &["maxItems", "minItems", "uniqueItems"],
        "object" => &["maxProperties", "minProperties", "required"],
        _ => &[],
    }
}

/// Refuses options that the type does not have, and those that the gate cannot hold.
pub(super) fn check(place: &Place<'_>, logical_type: &str, has_properties: bool) -> Found<()> {
    let Some(options) = place.get("logicalTypeOptions") else { return Ok(()) };
    for (name, node) in options.map()? {
        let known = known(logical_type);
        let Some(option) = options.get(name).filter(|_| known.contains(&name.as_str())) else {
            if known.contains(&name.as_str()) && node.value == Value::Null {
                continue;
            }
            let hint = did_you_mean(name, known.iter().copied());
            return options
                .get(name)
                .as_ref()
                .unwrap_or(&options)
                .wrong(format!("`{name}` is not an option of logicalType {logical_type}{hint}"));
        };
        let is_off = matches!(node.value, Value::Bool(false));
        match name.as_str() {
            "uniqueItems" | "maxProperties" | "minProperties" if !is_off => {
                return option
                    .wrong(format!("the gate does not check `{name}`; remove it, so that nobody relies on it"));
            }
            "required" if !has_properties => {
                return option.wrong("names properties, but the object declares none".into());
            }
            "defaultTimezone" if !matches!(option.text()?, "UTC" | "Etc/UTC" | "Z") => {
                return option.wrong("times without a zone are read as UTC; only Etc/UTC can stand here".into());
            }
            _ => {}
        }
    }
    Ok(())
}

/// All rules of a property; nothing when there is none.
pub(super) fn rules(place: &Place<'_>, of_type: FieldType) -> Found<Option<Box<Rules>>> {
    let mut rules = Rules::default();
    if let Some(options) = place.get("logicalTypeOptions") {
        length(&options, &mut rules)?;
        if let Some(pattern) = options.get("pattern") {
            rules.pattern = Some(regex(&pattern)?);
        }
        match of_type {
            FieldType::Text => rules.format = format(&options)?,
            FieldType::Integer => rules.range = integers(&options)?,
            FieldType::Number => rules.range = numbers(&options)?,
            FieldType::Timestamp => rules.range = times(&options)?,
            _ => {}
        }
        if let Some(step) = options.get("multipleOf") {
            let number = step.number()?;
            if number <= 0.0 {
                return step.wrong("must be more than 0".into());
            }
            rules.multiple_of = Some(number);
        }
    }
    quality(place, of_type, &mut rules)?;
    for (name, value) in custom_properties(place)? {
        let property = name.text()?;
        if property != "phronis.enum" {
            let hint = did_you_mean(property, ["phronis.enum"]);
            return name
                .wrong(format!("`{property}` is not a property of a field; it may stand at the schema object{hint}"));
        }
        rules.one_of = Some(one_of(&value, of_type)?);
    }
    let is_empty = rules.min_length.is_none()
        && rules.max_length.is_none()
        && rules.pattern.is_none()
        && rules.format.is_none()
        && rules.range.is_none()
        && rules.multiple_of.is_none()
        && rules.one_of.is_none();
    Ok((!is_empty).then(|| Box::new(rules)))
}

fn length(options: &Place<'_>, rules: &mut Rules) -> Found<()> {
    let bound = |names: [&str; 2]| -> Found<Option<usize>> {
        let Some(place) = names.into_iter().find_map(|name| options.get(name)) else { return Ok(None) };
        Ok(usize::try_from(place.integer(0, i64::from(i32::MAX))?).ok())
    };
    rules.min_length = bound(["minLength", "minItems"])?;
    rules.max_length = bound(["maxLength", "maxItems"])?;
    match (rules.min_length, rules.max_length) {
        (Some(min), Some(max)) if min > max => options.wrong(format!("no length is at least {min} and at most {max}")),
        _ => Ok(()),
    }
}

fn regex(place: &Place<'_>) -> Found<Regex> {
    Regex::new(place.text()?).or_else(|error| {
        let why = error.to_string();
        let why = why.lines().last().unwrap_or_default();
        place.wrong(format!("not a pattern that can be run in linear time (no look-around, no back-references): {why}"))
    })
}

fn format(options: &Place<'_>) -> Found<Option<Format>> {
    let Some(place) = options.get("format") else { return Ok(None) };
    match place.text()? {
        "uuid" => Ok(Some(Format::Uuid)),
        "ipv4" => Ok(Some(Format::Ipv4)),
        "ipv6" => Ok(Some(Format::Ipv6)),
        other => match crate::text::nearest(other, FORMATS) {
            Some(near) if near != other => place.wrong(format!("`{other}` is not a format; did you mean `{near}`?")),
            _ => Ok(None),
        },
    }
}

/// An end of a range: its value, and whether it is left out.
type End<T> = Option<(T, bool)>;

/// The ends of a range, low and high.
///
/// ODCS 3.0 has `exclusiveMinimum: true` beside `minimum`, 3.1 has `exclusiveMinimum: 5` instead of it.
fn ends<T: PartialOrd>(options: &Place<'_>, read: impl Fn(&Place<'_>) -> Found<T>) -> Found<[End<T>; 2]> {
    let end = |inclusive: &str, exclusive: &str, is_tighter: fn(&T, &T) -> bool| -> Found<End<T>> {
        let plain = options.get(inclusive).map(|place| read(&place)).transpose()?;
        let Some(place) = options.get(exclusive) else { return Ok(plain.map(|value| (value, false))) };
        match (place.value(), plain) {
            (Value::Bool(is_open), Some(plain)) => Ok(Some((plain, *is_open))),
            (Value::Bool(false), None) => Ok(None),
            (Value::Bool(true), None) => place.wrong(format!("needs `{inclusive}` beside it, or a value")),
            (_, plain) => {
                let open = read(&place)?;
                match plain {
                    Some(plain) if is_tighter(&plain, &open) => Ok(Some((plain, false))),
                    _ => Ok(Some((open, true))),
                }
            }
        }
    };
    let low = end("minimum", "exclusiveMinimum", |plain, open| plain > open)?;
    let high = end("maximum", "exclusiveMaximum", |plain, open| plain < open)?;
    Ok([low, high])
}

fn numbers(options: &Place<'_>) -> Found<Option<Range>> {
    let [low, high] = ends(options, |place| place.number())?;
    if low.is_none() && high.is_none() {
        return Ok(None);
    }
    let ((min, above), (max, below)) =
        (low.unwrap_or((f64::NEG_INFINITY, false)), high.unwrap_or((f64::INFINITY, false)));
    if min > max || (min == max && (above || below)) {
        return options.wrong("no number is in this range".into());
    }
    Ok(Some(Range::Numbers { min, max, above, below }))
}

fn integers(options: &Place<'_>) -> Found<Option<Range>> {
    whole(
        options,
        |place| match place.value() {
            Value::Integer(number) => Ok(*number),
            _ => place.wrong("the bound of an integer must be a whole number".into()),
        },
        bits(options)?,
    )
}

/// `format: i32` and the like narrow an integer.
fn bits(options: &Place<'_>) -> Found<(i64, i64)> {
    let full = (i64::MIN, i64::MAX);
    let Some(place) = options.get("format") else { return Ok(full) };
    Ok(match place.text()? {
        "i8" => (i8::MIN.into(), i8::MAX.into()),
        "i16" => (i16::MIN.into(), i16::MAX.into()),
        "i32" => (i32::MIN.into(), i32::MAX.into()),
        "u8" => (0, u8::MAX.into()),
        "u16" => (0, u16::MAX.into()),
        "u32" => (0, u32::MAX.into()),
        "u64" => (0, i64::MAX),
        _ => full,
    })
}

fn times(options: &Place<'_>) -> Found<Option<Range>> {
    let read = |place: &Place<'_>| match time::parse(place.text()?.as_bytes()) {
        Some(micros) => Ok(micros),
        None => place.wrong("not a time: expected RFC 3339 or a date".into()),
    };
    whole(options, read, (i64::MIN, i64::MAX))
}

fn whole(options: &Place<'_>, read: impl Fn(&Place<'_>) -> Found<i64>, bits: (i64, i64)) -> Found<Option<Range>> {
    let [low, high] = ends(options, read)?;
    let min = low.map_or(bits.0, |(value, is_open)| value.saturating_add(is_open.into())).max(bits.0);
    let max = high.map_or(bits.1, |(value, is_open)| value.saturating_sub(is_open.into())).min(bits.1);
    if min > max {
        return options.wrong("no value is in this range".into());
    }
    Ok((min > i64::MIN || max < i64::MAX).then_some(Range::Integers { min, max }))
}

/// The library rule `invalidValues` (called `rule` in 3.0, `metric` from 3.1) where it allows no exception at all.
fn quality(place: &Place<'_>, of_type: FieldType, rules: &mut Rules) -> Found<()> {
    let Some(list) = place.get("quality") else { return Ok(()) };
    for rule in list.list()? {
        let name = rule.get("metric").or_else(|| rule.get("rule"));
        let is_invalid_values =
            name.is_some_and(|name| matches!(name.value(), Value::Text(text) if text == "invalidValues"));
        let Some(arguments) = rule.get("arguments").filter(|_| is_invalid_values) else { continue };
        // A tolerance (`mustBeLessThan: 5`, a percentage) is about a table, not about one event.
        let operators = rule.map()?.iter().filter(|(key, _)| key.starts_with("must"));
        let allows_none =
            operators.clone().all(|(key, node)| key == "mustBe" && matches!(node.value, Value::Integer(0)));
        if !allows_none {
            continue;
        }
        if let Some(values) = arguments.get("validValues") {
            rules.one_of = Some(one_of(&values, of_type)?);
        }
        if let Some(pattern) = arguments.get("pattern") {
            rules.pattern = Some(regex(&pattern)?);
        }
    }
    Ok(())
}

fn one_of(place: &Place<'_>, of_type: FieldType) -> Found<OneOf> {
    let values = place.list()?;
    if values.is_empty() {
        return place.wrong("allows no value at all".into());
    }
    match of_type {
        FieldType::Text => {
            let mut texts = values.iter().map(|v| v.text().map(str::to_owned)).collect::<Found<Vec<_>>>()?;
            texts.sort();
            Ok(OneOf::Texts(texts))
        }
        FieldType::Integer => {
            let mut numbers = values.iter().map(|v| v.integer(i64::MIN, i64::MAX)).collect::<Found<Vec<_>>>()?;
            numbers.sort_unstable();
            Ok(OneOf::Integers(numbers))
        }
        FieldType::Number => {
            let mut numbers = values.iter().map(Place::number).collect::<Found<Vec<_>>>()?;
            numbers.sort_by(f64::total_cmp);
            Ok(OneOf::Numbers(numbers))
        }
        _ => place.wrong("only string, integer and number fields can have a list of allowed values".into()),
    }
}
