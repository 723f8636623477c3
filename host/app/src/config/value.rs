//! The types that a setting can have: how each is read and how it is shown again.

use std::net::SocketAddr;
use std::time::Duration;

use phronis_core::Name;
use phronis_core::text::did_you_mean;

use super::tree::Value;
use super::units::{Bytes, parse_duration, show_duration};

/// A type of setting.
pub trait Setting: Sized {
    /// What is expected, in the words of an error message.
    const EXPECTED: &'static str;

    /// Reads it.
    ///
    /// # Errors
    /// Says what was expected and what is there.
    fn read(value: &Value) -> Result<Self, String>;

    /// Shows it as TOML.
    fn show(&self) -> String;
}

/// A bound, or none: the text `unlimited`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound<T>(pub Option<T>);

/// Declares an enum whose variants are written as lower-case words.
macro_rules! words {
    ($(#[$doc:meta])* $vis:vis $name:ident, $expected:literal, $($(#[$variant_doc:meta])* $variant:ident = $word:literal),* $(,)?) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        $vis enum $name { $($(#[$variant_doc])* $variant),* }

        impl $crate::config::value::Setting for $name {
            const EXPECTED: &'static str = $expected;

            fn read(value: &$crate::config::tree::Value) -> Result<Self, String> {
                let text = $crate::config::value::text(value, Self::EXPECTED)?;
                match text {
                    $($word => Ok(Self::$variant),)*
                    _ => Err($crate::config::value::unknown_word(text, &[$($word),*])),
                }
            }

            fn show(&self) -> String {
                match self { $(Self::$variant => format!("\"{}\"", $word)),* }
            }
        }
    };
}
pub(crate) use words;

/// The text of a value.
pub(crate) fn text<'v>(value: &'v Value, expected: &str) -> Result<&'v str, String> {
    match value {
        Value::Text(text) | Value::Env(text) => Ok(text),
        other => Err(format!("expected {expected}, this is {}", other.type_name())),
    }
}

/// The message for a word that is not one of those allowed.
pub(crate) fn unknown_word(text: &str, words: &[&str]) -> String {
    let list = words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
    format!("`{text}` is not one of {list}{}", did_you_mean(text, words.iter().copied()))
}

impl Setting for String {
    const EXPECTED: &'static str = "a text";

    fn read(value: &Value) -> Result<Self, String> {
        text(value, Self::EXPECTED).map(str::to_owned)
    }

    fn show(&self) -> String {
        toml::Value::String(self.clone()).to_string()
    }
}

impl Setting for bool {
    const EXPECTED: &'static str = "true or false";

    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Bool(flag) => Ok(*flag),
            Value::Env(text) => text.parse().map_err(|_| format!("expected true or false, this is `{text}`")),
            other => Err(format!("expected true or false without quotes, this is {}", other.type_name())),
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for u32 {
    const EXPECTED: &'static str = "a whole number from 1 to 4294967295";

    fn read(value: &Value) -> Result<Self, String> {
        let number = match value {
            Value::Integer(number) => *number,
            Value::Env(text) => text.parse().map_err(|_| format!("expected {}, this is `{text}`", Self::EXPECTED))?,
            other => return Err(format!("expected {}, this is {}", Self::EXPECTED, other.type_name())),
        };
        Self::try_from(number)
            .ok()
            .filter(|number| *number > 0)
            .ok_or_else(|| format!("expected {}, this is {number}", Self::EXPECTED))
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for Bytes {
    const EXPECTED: &'static str = "a size such as \"64MiB\"";

    fn read(value: &Value) -> Result<Self, String> {
        text(value, Self::EXPECTED)?.parse()
    }

    fn show(&self) -> String {
        format!("\"{self}\"")
    }
}

impl Setting for Duration {
    const EXPECTED: &'static str = "a duration such as \"30s\"";

    fn read(value: &Value) -> Result<Self, String> {
        parse_duration(text(value, Self::EXPECTED)?)
    }

    fn show(&self) -> String {
        format!("\"{}\"", show_duration(*self))
    }
}

impl<T: Setting> Setting for Bound<T> {
    const EXPECTED: &'static str = T::EXPECTED;

    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Text(text) | Value::Env(text) if text == "unlimited" => Ok(Self(None)),
            other => {
                T::read(other).map(|value| Self(Some(value))).map_err(|error| format!("{error}, or \"unlimited\""))
            }
        }
    }

    fn show(&self) -> String {
        self.0.as_ref().map_or_else(|| "\"unlimited\"".to_owned(), T::show)
    }
}

impl Setting for SocketAddr {
    const EXPECTED: &'static str = "an address and port such as \"127.0.0.1:8000\"";

    fn read(value: &Value) -> Result<Self, String> {
        let text = text(value, Self::EXPECTED)?;
        let numeric =
            text.strip_prefix("localhost:").map_or_else(|| text.to_owned(), |port| format!("127.0.0.1:{port}"));
        numeric.parse().map_err(|_| format!("expected {}, this is `{text}`", Self::EXPECTED))
    }

    fn show(&self) -> String {
        format!("\"{self}\"")
    }
}

impl Setting for Name {
    const EXPECTED: &'static str = "a name of a-z, 0-9 and -";

    fn read(value: &Value) -> Result<Self, String> {
        text(value, Self::EXPECTED)?.parse().map_err(|error: phronis_core::name::InvalidName| error.to_string())
    }

    fn show(&self) -> String {
        format!("\"{self}\"")
    }
}

impl Setting for Vec<String> {
    const EXPECTED: &'static str = "a list of texts";

    /// In the environment: texts separated by commas.
    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Env(text) => {
                Ok(text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect())
            }
            Value::List(items) => items.iter().map(|item| String::read(&item.value)).collect(),
            other => Err(format!("expected {}, this is {}", Self::EXPECTED, other.type_name())),
        }
    }

    fn show(&self) -> String {
        format!("[{}]", self.iter().map(Setting::show).collect::<Vec<_>>().join(", "))
    }
}
