//! Bounds and escapes text that comes from guests, in one place, so that nobody forgets.

/// The longest message kept of a finding, a failure or a refusal. Longer ones are cut, with `…` at the end.
pub(crate) const MESSAGE_BYTES: usize = 4096;

/// Cuts a text at a character boundary.
pub(crate) fn bounded(mut text: String, bytes: usize) -> String {
    if text.len() > bytes {
        let mut end = bytes.saturating_sub('…'.len_utf8());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}

/// Cuts a text and escapes what could drive a terminal: control characters and bidirectional overrides.
pub(crate) fn for_people(text: &str, bytes: usize) -> String {
    let mut out = String::with_capacity(text.len().min(bytes));
    for character in text.trim_end().chars() {
        match character {
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => out.extend(character.escape_unicode()),
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
        if out.len() > bytes {
            break;
        }
    }
    bounded(out, bytes)
}

/// Whether a text is a rule or plugin name, `[a-z0-9-]{1,63}`.
pub(crate) fn is_name(text: &str) -> bool {
    (1..=63).contains(&text.len()) && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(bounded("ü".repeat(10), 9), "üüü…");
        assert_eq!(bounded("short".to_owned(), 5), "short");
    }

    #[test]
    fn control_characters_are_escaped_and_the_rest_stays() {
        assert_eq!(for_people("\u{1b}[31mü\r\nx\u{202e}\n", 99), "\\u{1b}[31mü\\r\\nx\\u{202e}");
        assert_eq!(for_people(&"\u{7}".repeat(99), 12).len(), 12);
    }
}
