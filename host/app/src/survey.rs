//! Looks at the plugins folder as a host would: whose each file is, what is in the way, and whether it can be loaded.

use std::fs;
use std::path::Path;

use phronis_core::text::did_you_mean;
use phronis_core::{Name, PluginId, StreamId, code};

use crate::commands;
use crate::config::{Config, Origin, Problem};
use crate::failure::Failure;

/// What is in the plugins folder.
#[derive(Debug, Default)]
pub struct Survey {
    /// The plugins, by id.
    pub plugins: Vec<PluginId>,
    /// What a host would not accept.
    pub problems: Vec<Problem>,
}

/// Surveys the plugins folder; one that is not there has no plugins.
pub fn plugins(config: &Config) -> Survey {
    let mut survey = Survey::default();
    for (tenant, tenant_dir) in entries(&config.plugins_dir, &mut survey) {
        if !tenant_dir.is_dir() {
            survey.refuse(&tenant_dir, code::BAD_PLUGIN_PATH, "is not in a folder <tenant>/<stream>");
            continue;
        }
        for (stream, stream_dir) in entries(&tenant_dir, &mut survey) {
            survey.stream(config, &tenant, &stream, &stream_dir);
        }
    }
    for (id, stream) in &config.streams {
        for name in stream.plugins.keys() {
            let is_it = |plugin: &&PluginId| plugin.stream == *id;
            let here: Vec<&PluginId> = survey.plugins.iter().filter(is_it).collect();
            if !here.is_empty() && !here.iter().any(|plugin| plugin.name == *name) {
                tracing::warn!(stream = %id, plugin = %name, "the configuration speaks of a plugin that is not in the folder");
            }
        }
    }
    survey.plugins.sort();
    survey
}

impl Survey {
    fn stream(&mut self, config: &Config, tenant: &str, stream: &str, dir: &Path) {
        if !dir.is_dir() {
            return self.refuse(dir, code::BAD_PLUGIN_PATH, "is not in a folder <tenant>/<stream>");
        }
        let id = match (tenant.parse::<Name>(), stream.parse::<Name>()) {
            (Ok(tenant), Ok(stream)) => StreamId { tenant, stream },
            (Err(error), _) | (_, Err(error)) => return self.refuse(dir, code::BAD_PLUGIN_PATH, &error.to_string()),
        };
        if !config.has_stream(&id) {
            let known: Vec<String> = config.streams.keys().map(ToString::to_string).collect();
            let near = did_you_mean(&id.to_string(), known.iter().map(String::as_str));
            let message = format!("there is no stream `{id}`{near}");
            return self.refuse(dir, code::UNKNOWN_STREAM_FOLDER, &message);
        }
        for (file, path) in entries(dir, self) {
            let Some(name) = file.strip_suffix(".wasm") else { continue };
            match name.parse::<Name>() {
                Ok(name) => self.plugins.push(PluginId { stream: id.clone(), name }),
                Err(error) => self.refuse(&path, code::BAD_PLUGIN_PATH, &error.to_string()),
            }
        }
    }

    /// Loads every plugin as a host would, in a cache of its own that is gone afterwards.
    ///
    /// # Errors
    /// When there is no engine; what a plugin does wrong is a problem of the survey.
    pub fn load_all(&mut self, config: &Config) -> Result<(), Failure> {
        let scratch = std::env::temp_dir().join(format!("phronis-check-{}", std::process::id()));
        let engine = commands::wiring::engine(config, &scratch)?;
        for id in self.plugins.clone() {
            let folder = config.plugins_dir.join(id.stream.tenant.as_str()).join(id.stream.stream.as_str());
            let path = folder.join(format!("{}.wasm", id.name));
            match fs::read(&path) {
                Ok(bytes) => {
                    if let Err(refusal) = engine.load(&bytes) {
                        self.refuse(&path, refusal.code, &refusal.message);
                    }
                }
                Err(error) => self.refuse(&path, code::BAD_PLUGIN_PATH, &format!("cannot be read: {error}")),
            }
        }
        drop(engine);
        // Left behind, it is only a folder in the system's temporary place.
        fs::remove_dir_all(&scratch).ok();
        Ok(())
    }

    fn refuse(&mut self, path: &Path, code: phronis_core::Code, message: &str) {
        let origin = Origin::File { path: path.into(), line: 0 };
        self.problems.push(Problem::new(&origin, "", message).code(code));
    }
}

/// Name and path of what is in a folder, hidden files left out, symbolic links refused.
fn entries(dir: &Path, survey: &mut Survey) -> Vec<(String, std::path::PathBuf)> {
    let read = match fs::read_dir(dir) {
        Ok(read) => read,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            survey.refuse(dir, code::BAD_PLUGIN_PATH, &format!("cannot be read: {error}"));
            return Vec::new();
        }
    };
    let mut found = Vec::new();
    for entry in read.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        if entry.file_type().is_ok_and(|of| of.is_symlink()) {
            survey.refuse(&entry.path(), code::BAD_PLUGIN_PATH, "is a symbolic link: put the file itself here");
            continue;
        }
        found.push((name, entry.path()));
    }
    found.sort();
    found
}
