//! The state store port, and SQLite and PostgreSQL behind it.
