//! Texts that both databases take, whatever is in them.
//!
//! PostgreSQL refuses U+0000 in texts and keys of more than some 2 700 bytes. An agent chooses its own name,
//! and must not escape its halt by choosing one that the database refuses.

use std::borrow::Cow;

/// Longest name that is its own key, in bytes.
const LONGEST: usize = 512;

/// A text without U+0000, that [`told`] turns back: U+0001 escapes U+0000 and itself.
pub(crate) fn stored(text: &str) -> Cow<'_, str> {
    if !text.contains(['\0', '\u{1}']) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.replace('\u{1}', "\u{1}1").replace('\0', "\u{1}0"))
}

/// The text that was stored.
pub(crate) fn told(text: String) -> String {
    if !text.contains('\u{1}') {
        return text;
    }
    text.replace("\u{1}0", "\0").replace("\u{1}1", "\u{1}")
}

/// What stands for a name in a key: itself, or its digest when it is long.
pub(crate) fn key(name: &str) -> Cow<'_, str> {
    let stored = stored(name);
    if stored.len() <= LONGEST {
        stored
    } else {
        Cow::Owned(format!("\u{1}#{}", blake3::hash(name.as_bytes()).to_hex()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn usual_texts_are_stored_as_they_are() {
        assert!(matches!(stored("crew-7"), Cow::Borrowed("crew-7")));
        assert!(matches!(key("crew-7"), Cow::Borrowed("crew-7")));
    }

    #[test]
    fn a_long_name_has_a_short_key_of_its_own() {
        let (one, other) = ("x".repeat(10_000), format!("{}y", "x".repeat(9_999)));
        assert!(key(&one).len() < 80);
        assert_ne!(key(&one), key(&other));
        assert_ne!(key(&one), key(&key(&one)), "nobody can take the key of another by name");
    }

    proptest! {
        #[test]
        fn every_text_comes_back_and_has_no_zero(text in "[\0\u{1}01a]{0,12}") {
            let stored = stored(&text).into_owned();
            prop_assert!(!stored.contains('\0'));
            prop_assert_eq!(told(stored), text);
        }
    }
}
