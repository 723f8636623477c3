//! The atomics of [`word`](super::word), named apart so that a test can put loom's in their place.

pub(super) use std::sync::atomic::{AtomicU64, Ordering};
