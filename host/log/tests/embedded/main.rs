//! The embedded log against the suite of all logs, and what it alone promises. One binary, so that it is linked once.

mod common;
mod crash;
mod full;
mod promises;
mod retention;
