//! What comes from outside as files, and what the simulator makes up, as event rows in JSON text.
//!
//! Files and arithmetic only: it must not know HTTP, logs, contracts or the clock.
//! Whoever calls it posts the rows, and decides when (see [`pace`]).
//! Nothing is judged here: a row that cannot become an event is handed on as it is, so that the gate refuses it and keeps it as a letter.

pub mod error;
pub mod files;
pub mod pace;
pub mod resume;
pub mod simulate;

pub use error::Error;
pub use files::{ColumnTypes, File, Format, Mapping, Row, Rows};
pub use pace::Pace;
pub use resume::Resume;
