//! The `phronis` binary. What it does stands in the library of this crate.

/// librdkafka makes several small allocations for each record, and frees them on other threads than it made them:
/// this allocator is made for that, and replaces the C library's for librdkafka too.
/// Without huge pages: they bring no speed here and half as much memory again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Milliseconds for which freed memory is kept: a tenth of what the allocator would. What an hour of load took is given back
/// soon, and what a second of it needs at the most is a third less.
const PURGE_DELAY: std::ffi::c_long = 100;

/// The allocator's number of that option.
const OPTION: libmimalloc_sys::mi_option_t = 15;

#[expect(unsafe_code, reason = "the allocator has no other way to be told, but for the environment")]
fn main() -> std::process::ExitCode {
    // SAFETY: it takes any number of an option, and ignores one that it does not know. No other thread runs yet.
    unsafe { libmimalloc_sys::mi_option_set_default(OPTION, PURGE_DELAY) };
    phronis::cli::main()
}
