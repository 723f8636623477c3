//! How long the allocator keeps memory that was freed, before the system has it back.
//!
//! What an hour of load took is given back soon, and what a second of it needs at the most is less. Giving back costs: what is
//! needed again must be cleared by the system again.

use std::ffi::c_long;

/// Milliseconds of a host. On Kafka, the allocator's 1000 would take 50 MiB more, and 100 would cost 5 % of the speed.
const HOST: c_long = 300;

/// Milliseconds of a host with an archive, which makes and frees a file's rows again and again: 30 MiB less than with 300.
const ARCHIVE: c_long = 100;

/// The allocator's number of this option.
const OPTION: libmimalloc_sys::mi_option_t = 15;

/// Tells the allocator what the host will do, before anything else runs. `MIMALLOC_PURGE_DELAY` in the environment stays in force.
#[expect(unsafe_code, reason = "the allocator has no other way to be told, but for the environment")]
pub(crate) fn prepare(has_archive: bool) {
    // SAFETY: it takes any number of an option, and ignores one that it does not know. No other thread runs yet.
    unsafe { libmimalloc_sys::mi_option_set_default(OPTION, if has_archive { ARCHIVE } else { HOST }) };
}
