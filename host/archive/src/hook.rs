//! Places between two steps of a commit, at which a test can stop the process.

use std::sync::{Arc, OnceLock};

/// What is called at each place; nothing by default. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hook(Arc<OnceLock<fn(&'static str)>>);

impl Hook {
    /// Sets what is called; the first one stays.
    pub(crate) fn set(&self, call: fn(&'static str)) {
        self.0.get_or_init(|| call);
    }

    /// Calls it.
    pub(crate) fn pass(&self, place: &'static str) {
        if let Some(call) = self.0.get() {
            call(place);
        }
    }
}
