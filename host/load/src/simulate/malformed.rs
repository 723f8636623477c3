//! Events that the gate must refuse, each for one known reason.

use phronis_core::{Code, code};

use super::chance::Chance;

/// What is wrong with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Malformation {
    /// The JSON text is cut off.
    Truncated,
    /// A number is a text.
    WrongType,
    /// A required field is not there.
    MissingField,
    /// A number is outside of what the contract allows.
    OutOfRange,
}

impl Malformation {
    /// The code of the letter that it becomes.
    pub fn code(self) -> Code {
        match self {
            Self::Truncated => code::NOT_JSON,
            Self::WrongType => code::WRONG_TYPE,
            Self::MissingField => code::MISSING_FIELD,
            Self::OutOfRange => code::OUT_OF_RANGE,
        }
    }

    /// Whether an event is malformed, and how.
    pub(super) fn pick(chance: Chance, share: f64) -> Option<Self> {
        const ALL: [Malformation; 4] =
            [Malformation::Truncated, Malformation::WrongType, Malformation::MissingField, Malformation::OutOfRange];
        let is_malformed = chance.of(1).unit() < share;
        is_malformed.then(|| ALL.get(usize::try_from(chance.of(2).below(4)).ok()?).copied()).flatten()
    }
}
