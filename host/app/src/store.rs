//! Asks the state store whether it answers, for `doctor` and `check --online`. Makes and changes nothing.

use phronis_store::{Options, Store};

use crate::config::Config;
use crate::failure::Failure;

/// What the store says.
///
/// # Errors
/// That it is away, refuses, is damaged, or was made by a newer version.
pub(crate) async fn asked(config: &Config) -> Result<String, Failure> {
    let options = config.store.options();
    if let Options::Sqlite(path) = &options
        && !path.exists()
    {
        return Ok(format!("{} will be made", path.display()));
    }
    Store::look(&options).await?;
    Ok(format!("{options} answers"))
}
