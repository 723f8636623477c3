//! JSON as bytes: a strict cursor to read, and fast ways to write.
//!
//! Apart because the hot path reads each event exactly once, straight into columns, and writes by splicing;
//! a tree of values, or a library's token iterator, would cost several times as much. Only syntax here: no contract, no types.

pub(crate) mod cursor;
pub(crate) mod write;
