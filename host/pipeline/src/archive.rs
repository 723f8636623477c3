//! The archive branch: takes what passed to Iceberg tables, off the data path.

mod pointers;

pub use pointers::StorePointers;
