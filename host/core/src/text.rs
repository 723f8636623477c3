//! Text for people: made safe for terminals, kept short, and the nearest name for a misspelt one.
//!
//! Whatever a guest or a record says ends up on a screen or in a log through here.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Escapes what could move a cursor, colour a terminal or turn the reading order:
/// control characters (C0, DEL, C1), line and paragraph separators, and bidirectional controls.
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if is_unsafe(c) => {
                // Writing into a String cannot fail.
                let _infallible = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// The beginning of a text, at most `max` bytes and never half a character.
pub fn bounded(text: &str, max: usize) -> &str {
    text.get(..text.floor_char_boundary(max)).unwrap_or(text)
}

/// The candidate that someone who wrote `word` most likely meant: at most a third of the letters differ.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (word.chars().count() / 3).clamp(1, 4);
    candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `; did you mean …?`, or nothing: the end of a sentence about an unknown name.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, candidates).map_or_else(String::new, |found| format!("; did you mean `{found}`?"))
}

fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{061c}')
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Edit distance (insert, delete, replace, swap of neighbours), ignoring case and the difference of `-` and `_`.
fn distance(left: &str, right: &str) -> usize {
    let normal = |text: &str| -> Vec<char> {
        text.chars().take(128).map(|c| if c == '-' { '_' } else { c.to_ascii_lowercase() }).collect()
    };
    let (left, right) = (normal(left), normal(right));
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=right.len()).collect();
    let mut last_left = '\0';
    for (i, &l) in left.iter().enumerate() {
        let mut row = vec![i + 1];
        let mut last_right = '\0';
        for (j, &r) in right.iter().enumerate() {
            let at = |row: &[usize], j: usize| row.get(j).copied().unwrap_or(usize::MAX - 1);
            let mut best = (at(&above, j) + usize::from(l != r)).min(at(&above, j + 1) + 1).min(at(&row, j) + 1);
            if i > 0 && j > 0 && l == last_right && r == last_left {
                best = best.min(at(&before, j - 1) + 1);
            }
            row.push(best);
            last_right = r;
        }
        last_left = l;
        before = std::mem::replace(&mut above, row);
    }
    above.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_moves_a_cursor_passes() {
        for (text, safe) in [
            ("plain ünïcode", "plain ünïcode"),
            ("\u{1b}[31mred", "\\u{1b}[31mred"),
            ("a\nb\tc\rd", "a\\nb\\tc\\rd"),
            ("\u{9b}2J\u{7f}", "\\u{9b}2J\\u{7f}"),
            ("abc\u{202e}txt.exe", "abc\\u{202e}txt.exe"),
        ] {
            assert_eq!(escape(text), safe);
        }
    }

    #[test]
    fn a_cut_never_halves_a_character() {
        assert_eq!(bounded("aü", 2), "a");
        assert_eq!(bounded("aü", 3), "aü");
        assert_eq!(bounded("aü", 100), "aü");
    }

    #[test]
    fn a_slip_finds_its_name_and_another_word_does_not() {
        let names = ["sensor_id", "value", "unit", "metadata.temp"];
        for (word, found) in [
            ("sensorid", Some("sensor_id")),
            ("vlaue", Some("value")),
            ("Value", Some("value")),
            ("metadata.tmp", Some("metadata.temp")),
            ("humidity", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, names), found, "{word}");
        }
        assert_eq!(did_you_mean("unitt", names), "; did you mean `unit`?");
    }
}
