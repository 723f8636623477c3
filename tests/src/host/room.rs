//! The folders of a host: they outlive its process.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use crate::plugins;

/// A data folder, a plugins folder and a configuration.
#[derive(Debug)]
pub struct Room {
    folder: Folder,
    data: PathBuf,
    plugins: PathBuf,
}

#[derive(Debug)]
enum Folder {
    Temporary(tempfile::TempDir),
    Kept(PathBuf),
}

impl Room {
    /// A room that is gone with its value.
    ///
    /// # Errors
    /// When the folders cannot be made.
    pub fn new() -> anyhow::Result<Self> {
        Self::with("")
    }

    /// A room whose configuration goes on like this, after the folders and the address.
    ///
    /// # Errors
    /// When the folders cannot be made.
    pub fn with(config: &str) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("phronis-").tempdir()?;
        let data = folder.path().join("data");
        Self::furnish(Folder::Temporary(folder), data, config)
    }

    /// A room whose data is in another folder, a mounted one for example.
    ///
    /// # Errors
    /// When the folders cannot be made.
    pub fn with_data(data: &Path, config: &str) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("phronis-").tempdir()?;
        Self::furnish(Folder::Temporary(folder), data.to_owned(), config)
    }

    /// A room that stays.
    ///
    /// # Errors
    /// When the folders cannot be made.
    pub fn kept(folder: &Path, config: &str) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let folder = folder.canonicalize()?;
        let data = folder.join("data");
        Self::furnish(Folder::Kept(folder), data, config)
    }

    fn furnish(folder: Folder, data: PathBuf, config: &str) -> anyhow::Result<Self> {
        let room = Self { plugins: folder.path().join("plugins"), data, folder };
        std::fs::create_dir_all(&room.plugins)?;
        std::fs::create_dir_all(&room.data)?;
        room.configure(config)?;
        Ok(room)
    }

    /// Writes the configuration anew.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn configure(&self, more: &str) -> anyhow::Result<()> {
        let (data, plugins) = (self.data.display(), self.plugins.display());
        let log = if more.contains("[log]") { "" } else { "[log]\nmin_free_bytes = \"16MiB\"\n" };
        let http = if more.contains("[http]") { "" } else { "[http]\nlisten = \"127.0.0.1:0\"\n" };
        let text = format!("data_dir = \"{data}\"\nplugins_dir = \"{plugins}\"\n{http}{log}{more}\n");
        Ok(std::fs::write(self.config(), text)?)
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.folder.path().join("phronis.toml")
    }

    /// The folder of all.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The data folder.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The folder of the embedded log.
    pub fn log(&self) -> PathBuf {
        self.data.join("log")
    }

    /// Where plugins are dropped.
    pub fn plugins(&self) -> &Path {
        &self.plugins
    }

    /// A `phronis` command that finds this room's host.
    ///
    /// # Errors
    /// When there is no binary.
    pub fn command(&self, args: &[&str]) -> anyhow::Result<Command> {
        let mut command = Command::new(plugins::binary()?);
        command.args(args).arg("-c").arg(self.config()).current_dir(self.folder());
        command.env("NO_COLOR", "1").env_remove("RUST_LOG").env_remove("PHRONIS_KEY").env_remove("PHRONIS_ENDPOINT");
        Ok(command)
    }

    /// Drops a component as `tenant/stream/name`, with a settings file beside it: the settings first, so that both hold at once.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn install(&self, id: &str, wasm: &Path, settings: &str) -> anyhow::Result<()> {
        let bytes = std::fs::read(wasm).with_context(|| format!("reading {}", wasm.display()))?;
        if !settings.is_empty() {
            self.write(&format!("{id}.toml"), settings.as_bytes())?;
        }
        self.write(&format!("{id}.wasm"), &bytes)
    }

    /// Writes a file of the plugins folder as careful people do: beside it, then renamed.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, file: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let path = self.plugins.join(file);
        let folder = path.parent().context("a folder")?;
        std::fs::create_dir_all(folder)?;
        let mut fresh = tempfile::NamedTempFile::new_in(folder)?;
        std::io::Write::write_all(&mut fresh, bytes)?;
        fresh.persist(&path)?;
        Ok(())
    }

    /// Deletes a file of the plugins folder.
    ///
    /// # Errors
    /// When it cannot be deleted.
    pub fn delete(&self, file: &str) -> anyhow::Result<()> {
        Ok(std::fs::remove_file(self.plugins.join(file))?)
    }
}

impl Folder {
    fn path(&self) -> &Path {
        match self {
            Self::Temporary(folder) => folder.path(),
            Self::Kept(path) => path,
        }
    }
}
