//! The Iceberg archive.
