//! Records as columns: what a log holds and what a poll returns.
//!
//! A batch comes from one partition of one topic.
//! Keys, values and headers are Arrow binary arrays, so that a batch is a handful of allocations whatever its size,
//! and is cloned, sliced and shared between branches without copying.

use std::sync::Arc;

use arrow_array::builder::BinaryBuilder;
use arrow_array::{Array, BinaryArray, Int64Array};

/// The name of a topic.
pub type TopicName = Arc<str>;

/// Record bytes before they have offsets: what is appended.
///
/// All columns have the same length. A null key is no key, a null value is a tombstone, null headers are no headers.
#[derive(Debug, Clone)]
pub struct NewRecords {
    /// The producer's time of each record, in milliseconds since 1970-01-01T00:00:00Z.
    pub timestamps: Int64Array,
    /// Keys.
    pub keys: BinaryArray,
    /// Values.
    pub values: BinaryArray,
    /// Headers of each record, in the encoding of [`HeadersBuilder`].
    pub headers: BinaryArray,
}

impl NewRecords {
    /// Number of records.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of keys, values and headers.
    pub fn bytes(&self) -> usize {
        let column = |array: &BinaryArray| -> usize {
            let offsets = array.value_offsets();
            match (offsets.first(), offsets.last()) {
                (Some(first), Some(last)) => usize::try_from(last - first).unwrap_or(0),
                _ => 0,
            }
        };
        column(&self.keys) + column(&self.values) + column(&self.headers)
    }

    /// The records `from..from + len`, sharing the memory.
    pub fn slice(&self, from: usize, len: usize) -> Self {
        Self {
            timestamps: self.timestamps.slice(from, len),
            keys: self.keys.slice(from, len),
            values: self.values.slice(from, len),
            headers: self.headers.slice(from, len),
        }
    }

    /// The key of a record; `None` when it has none.
    pub fn key(&self, row: usize) -> Option<&[u8]> {
        (!self.keys.is_null(row)).then(|| self.keys.value(row))
    }

    /// The value of a record; `None` for a tombstone.
    pub fn value(&self, row: usize) -> Option<&[u8]> {
        (!self.values.is_null(row)).then(|| self.values.value(row))
    }

    /// The headers of a record.
    pub fn headers(&self, row: usize) -> Headers<'_> {
        Headers { rest: if self.headers.is_null(row) { &[] } else { self.headers.value(row) } }
    }
}

/// Records of one partition, in offset order.
#[derive(Debug, Clone)]
pub struct Records {
    /// The topic.
    pub topic: TopicName,
    /// The partition.
    pub partition: i32,
    /// Offsets, rising, not necessarily without gaps.
    pub offsets: Int64Array,
    /// The records themselves.
    pub body: NewRecords,
}

impl Records {
    /// Number of records.
    pub fn len(&self) -> usize {
        self.body.len()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.body.is_empty()
    }

    /// The offset after the last record: what a consumer commits.
    pub fn next_offset(&self) -> Option<i64> {
        self.offsets.values().last().map(|last| last + 1)
    }

    /// The records `from..from + len`, sharing the memory.
    pub fn slice(&self, from: usize, len: usize) -> Self {
        Self {
            topic: Arc::clone(&self.topic),
            partition: self.partition,
            offsets: self.offsets.slice(from, len),
            body: self.body.slice(from, len),
        }
    }
}

/// Builds [`NewRecords`] record by record.
#[derive(Debug)]
pub struct RecordsBuilder {
    timestamps: Vec<i64>,
    keys: BinaryBuilder,
    values: BinaryBuilder,
    headers: BinaryBuilder,
}

impl Default for RecordsBuilder {
    fn default() -> Self {
        Self::with_capacity(0, 0)
    }
}

impl RecordsBuilder {
    /// Room for `records` records with `bytes` bytes of values.
    pub fn with_capacity(records: usize, bytes: usize) -> Self {
        Self {
            timestamps: Vec::with_capacity(records),
            keys: BinaryBuilder::with_capacity(records, records.saturating_mul(8)),
            values: BinaryBuilder::with_capacity(records, bytes),
            headers: BinaryBuilder::with_capacity(records, 0),
        }
    }

    /// Adds a record. `headers` is a finished [`HeadersBuilder`] block; empty means no headers.
    pub fn push(&mut self, timestamp: i64, key: Option<&[u8]>, value: Option<&[u8]>, headers: &[u8]) {
        self.timestamps.push(timestamp);
        self.keys.append_option(key);
        self.values.append_option(value);
        self.headers.append_option((!headers.is_empty()).then_some(headers));
    }

    /// Number of records so far.
    pub fn len(&self) -> usize {
        self.timestamps.len()
    }

    /// Whether no record was added.
    pub fn is_empty(&self) -> bool {
        self.timestamps.is_empty()
    }

    /// Bytes of values so far.
    pub fn value_bytes(&self) -> usize {
        self.values.values_slice().len()
    }

    /// The records.
    pub fn finish(mut self) -> NewRecords {
        NewRecords {
            timestamps: self.timestamps.into(),
            keys: self.keys.finish(),
            values: self.values.finish(),
            headers: self.headers.finish(),
        }
    }
}

/// Writes a headers block: for each header its name's length (u16, little endian), the name, the value's length (u32), the value.
#[derive(Debug, Default, Clone)]
pub struct HeadersBuilder {
    block: Vec<u8>,
}

impl HeadersBuilder {
    /// Adds a header. Names over 65 535 bytes are cut: no producer that we know can write one.
    pub fn push(&mut self, name: &str, value: &[u8]) -> &mut Self {
        let mut end = name.len().min(usize::from(u16::MAX));
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        let (name, _) = name.as_bytes().split_at(end);
        let name_len = u16::try_from(name.len()).unwrap_or(u16::MAX);
        let (value, _) = value.split_at(value.len().min(u32::MAX as usize));
        let value_len = u32::try_from(value.len()).unwrap_or(u32::MAX);
        self.block.extend_from_slice(&name_len.to_le_bytes());
        self.block.extend_from_slice(name);
        self.block.extend_from_slice(&value_len.to_le_bytes());
        self.block.extend_from_slice(value);
        self
    }

    /// Adds all headers of a record.
    pub fn extend(&mut self, headers: Headers<'_>) -> &mut Self {
        self.block.extend_from_slice(headers.rest);
        self
    }

    /// The block so far.
    pub fn as_bytes(&self) -> &[u8] {
        &self.block
    }

    /// The headers so far.
    pub fn headers(&self) -> Headers<'_> {
        Headers { rest: &self.block }
    }

    /// Forgets all headers, keeps the memory.
    pub fn clear(&mut self) {
        self.block.clear();
    }
}

/// The headers of a record, in order; names may repeat, as in Kafka.
#[derive(Debug, Clone, Copy, Default)]
pub struct Headers<'a> {
    rest: &'a [u8],
}

impl<'a> Headers<'a> {
    /// Bytes of the headers, in the encoding of [`HeadersBuilder`].
    pub fn bytes(self) -> usize {
        self.rest.len()
    }

    /// The first header of this name.
    pub fn get(self, name: &str) -> Option<&'a [u8]> {
        self.into_iter().find(|(n, _)| *n == name).map(|(_, value)| value)
    }

    /// The last header of this name: the one that counts where a writer adds its own after those that were there.
    pub fn last(self, name: &str) -> Option<&'a [u8]> {
        self.into_iter().filter(|(n, _)| *n == name).last().map(|(_, value)| value)
    }
}

impl<'a> Headers<'a> {
    /// Names and values as bytes, for who only passes them on: whether a name is text is not looked at again.
    pub fn pairs(mut self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        std::iter::from_fn(move || self.pair())
    }

    fn pair(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        let (name_len, rest) = self.rest.split_first_chunk::<2>()?;
        let (name, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*name_len)))?;
        let (value_len, rest) = rest.split_first_chunk::<4>()?;
        let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*value_len) as usize)?;
        self.rest = rest;
        Some((name, value))
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a str, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, value) = self.pair()?;
        Some((str::from_utf8(name).ok()?, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back_in_order_with_repeated_names() {
        let mut headers = HeadersBuilder::default();
        headers.push("a", b"1").push("b", b"").push("a", &[0xff]);
        let mut records = RecordsBuilder::default();
        records.push(7, Some(b"k"), Some(b"v"), headers.as_bytes());
        records.push(8, None, None, &[]);
        let records = records.finish();
        let seen: Vec<_> = records.headers(0).collect();
        assert_eq!(seen, [("a", &b"1"[..]), ("b", &b""[..]), ("a", &[0xff][..])]);
        assert_eq!(records.headers(0).get("a"), Some(&b"1"[..]));
        assert_eq!(records.headers(1).count(), 0);
        assert_eq!((records.key(0), records.value(0)), (Some(&b"k"[..]), Some(&b"v"[..])));
        assert_eq!((records.key(1), records.value(1)), (None, None));
    }
}
