//! The `phronis` binary. What it does stands in the library of this crate.

/// librdkafka makes several small allocations for each record, and frees them on other threads than it made them:
/// this allocator is made for that, and replaces the C library's for librdkafka too.
/// Without huge pages: they bring no speed here and half as much memory again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    phronis::cli::main()
}
