//! What is known of the plugins folder, and what a look at it changes. Time is an argument.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Component as Part, Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use phronis_core::code::{BAD_PLUGIN_PATH, SETTINGS_INVALID};
use phronis_core::{PluginId, StreamId};
use rustix::fs::{Mode, OFlags};

use super::{Change, What};
use crate::engine::Engine;
use crate::error::Refusal;

/// A deletion counts after this.
const GRACE: Duration = Duration::from_secs(2);

/// A file that is older than this at the first look is whole.
const SETTLED_AGE: Duration = Duration::from_secs(2);

/// How long a closed file must stay so until it is read: tools open, truncate and close in quick succession.
const QUIET: Duration = Duration::from_millis(20);

/// How long the last write of an open file keeps the net from taking it.
const WRITING_FOR: Duration = Duration::from_secs(60);

/// The largest settings file.
const SETTINGS_BYTES: usize = 64 << 10;

/// Files under the root that are looked at; beyond it something is wrong with the folder.
const MOST_FILES: usize = 100_000;

/// What tells one version of a file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    size: u64,
    modified: (i64, i64),
    inode: (u64, u64),
}

/// A file that was reported.
#[derive(Debug)]
struct Known {
    id: PluginId,
    what: What,
    stamp: Stamp,
    /// Digest of what was reported; `None` after a refusal.
    digest: Option<String>,
    /// When it was missed first.
    missed: Option<Instant>,
}

/// The plugins folder.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
    max_component_bytes: usize,
    known: HashMap<PathBuf, Known>,
    /// Files seen once by a look and not yet taken.
    seen: HashMap<PathBuf, Stamp>,
    /// Files that someone writes to, and when the last write was.
    writing: HashMap<PathBuf, Instant>,
    /// Files that were closed or renamed into place, and when; read when they stay so for a moment.
    closed: HashMap<PathBuf, Instant>,
    /// Bad paths that were reported.
    bad: HashMap<PathBuf, String>,
    looked: bool,
}

/// Device and inode of a folder; `None` if there is none.
pub(super) fn inode(dir: &Path) -> Option<(u64, u64)> {
    fs::metadata(dir).ok().filter(Metadata::is_dir).map(|found| (found.dev(), found.ino()))
}

impl Folder {
    pub(super) fn new(root: PathBuf, max_component_bytes: usize) -> Self {
        Self {
            root,
            max_component_bytes,
            known: HashMap::new(),
            seen: HashMap::new(),
            writing: HashMap::new(),
            closed: HashMap::new(),
            bad: HashMap::new(),
            looked: false,
        }
    }

    /// Someone writes to a file; nobody takes it until it is closed.
    pub(super) fn written(&mut self, path: &Path, now: Instant) {
        self.closed.remove(path);
        self.writing.insert(path.to_owned(), now);
    }

    /// A file was closed by its writer or renamed into place.
    pub(super) fn closed(&mut self, path: &Path, now: Instant) {
        self.writing.remove(path);
        self.closed.insert(path.to_owned(), now);
    }

    /// Whether closed files wait to be read.
    pub(super) fn has_closed(&self) -> bool {
        !self.closed.is_empty()
    }

    /// Reads the files that were closed and stayed so. An empty one is left to the looks: perhaps it was only truncated.
    pub(super) fn take_closed(&mut self, now: Instant, found: &mut Vec<Change>) {
        let quiet = |since: &Instant| now.saturating_duration_since(*since) >= QUIET;
        let ready: Vec<PathBuf> = self.closed.extract_if(|_, since| quiet(since)).map(|(path, _)| path).collect();
        for path in ready {
            if let Some((id, what)) = self.place(&path, found)
                && let Some(stamp) = stamp(&path)
            {
                if stamp.size == 0 {
                    self.seen.insert(path, stamp);
                } else {
                    self.seen.remove(&path);
                    self.report(&path, id, what, stamp, now, found);
                }
            }
        }
    }

    /// A file is not there any more, perhaps only for a moment.
    pub(super) fn gone(&mut self, path: &Path, now: Instant) {
        self.closed.remove(path);
        self.writing.remove(path);
        self.seen.remove(path);
        if let Some(known) = self.known.get_mut(path) {
            known.missed.get_or_insert(now);
        }
    }

    /// Whether files wait for a second look.
    pub(super) fn is_unsettled(&self) -> bool {
        !self.seen.is_empty()
    }

    /// Looks at everything. A file is taken when it is as it was at the last look.
    pub(super) fn look(&mut self, now: Instant, found: &mut Vec<Change>) {
        self.writing.retain(|_, last| now.saturating_duration_since(*last) < WRITING_FOR);
        let first = !std::mem::replace(&mut self.looked, true);
        let files = self.files(found);
        let mut seen = HashMap::new();
        for (path, (id, what, stamp)) in &files {
            let known = self.known.get(path);
            let same = known.is_some_and(|known| known.stamp == *stamp);
            let settled = self.seen.get(path) == Some(stamp) || (first && is_old(path));
            if self.writing.contains_key(path) || self.closed.contains_key(path) || (!same && !settled) {
                seen.insert(path.clone(), *stamp);
            } else if !same || known.is_some_and(|known| known.missed.is_some()) {
                self.report(path, id.clone(), *what, *stamp, now, found);
            }
        }
        self.seen = seen;
        for (path, known) in &mut self.known {
            if !files.contains_key(path) {
                known.missed.get_or_insert(now);
            }
        }
    }

    /// Reports the deletions whose grace is over.
    pub(super) fn bury(&mut self, now: Instant, found: &mut Vec<Change>) {
        let over = |known: &Known| known.missed.is_some_and(|since| now.saturating_duration_since(since) >= GRACE);
        self.known.retain(|path, known| {
            if !over(known) {
                return true;
            }
            if stamp(path).is_some() {
                known.missed = None;
                return true;
            }
            found.push(Change::Removed { id: known.id.clone(), what: known.what });
            false
        });
    }

    /// All files of plugins, settings before components, so that a new plugin starts with its settings.
    fn files(&mut self, found: &mut Vec<Change>) -> BTreeMap<PathBuf, (PluginId, What, Stamp)> {
        let mut files = BTreeMap::new();
        let mut bad = HashSet::new();
        let mut todo = vec![(self.root.clone(), 0)];
        let mut count = 0;
        while let Some((folder, depth)) = todo.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                count += 1;
                let (path, is_dir) = (entry.path(), entry.file_type().is_ok_and(|t| t.is_dir()));
                if count > MOST_FILES || is_hidden(&path) {
                    continue;
                }
                if is_dir && depth < 3 {
                    todo.push((path, depth + 1));
                } else if !is_dir && let Some((id, what)) = self.place(&path, found) {
                    files.extend(stamp(&path).map(|stamp| (path, (id, what, stamp))));
                } else {
                    bad.insert(path);
                }
            }
        }
        self.bad.retain(|path, _| bad.contains(path));
        files
    }

    /// Whose file it is. A file that could be meant for a plugin and is not in its place is reported, once.
    fn place(&mut self, path: &Path, found: &mut Vec<Change>) -> Option<(PluginId, What)> {
        if is_hidden(path) {
            return None;
        }
        let linked = fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink());
        let what = match path.extension().and_then(OsStr::to_str) {
            Some("wasm") => What::Component,
            Some("toml") => What::Settings,
            // A symlink to a folder is where plugins could hide.
            _ if linked && path.is_dir() => {
                self.report_bad(path, "symlinks are not followed: put the folder itself here".to_owned(), found);
                return None;
            }
            _ => return None,
        };
        match self.parse(path) {
            Ok(id) => {
                self.bad.remove(path);
                Some((id, what))
            }
            Err(reason) => {
                if path.exists() || linked {
                    self.report_bad(path, reason, found);
                }
                None
            }
        }
    }

    fn report_bad(&mut self, path: &Path, reason: String, found: &mut Vec<Change>) {
        if self.bad.insert(path.to_owned(), reason.clone()).as_ref() != Some(&reason) {
            found.push(Change::BadPath { path: path.to_owned(), reason });
        }
    }

    fn parse(&self, path: &Path) -> Result<PluginId, String> {
        let parts = path.strip_prefix(&self.root).map_err(|_| "it is not in the plugins folder".to_owned())?;
        let parts: Option<Vec<&str>> =
            parts.components().map(|part| if let Part::Normal(part) = part { part.to_str() } else { None }).collect();
        let Some([tenant, stream, file]) = parts.as_deref() else {
            return Err("plugins belong into <tenant>/<stream>/<name>.wasm of the plugins folder".to_owned());
        };
        for folder in [path.parent(), path.parent().and_then(Path::parent)].into_iter().flatten() {
            if fs::symlink_metadata(folder).is_ok_and(|found| found.is_symlink()) {
                return Err("symlinks are not followed: put the folder itself here".to_owned());
            }
        }
        let name = file.rsplit_once('.').map_or(*file, |(name, _)| name);
        let stream = tenant.parse().and_then(|tenant| Ok(StreamId { tenant, stream: stream.parse()? }));
        stream.and_then(|stream| Ok(PluginId { stream, name: name.parse()? })).map_err(|e| e.to_string())
    }

    /// Reads a file and reports it if it is not what was reported last.
    fn report(&mut self, path: &Path, id: PluginId, what: What, stamp: Stamp, now: Instant, found: &mut Vec<Change>) {
        let most = match what {
            What::Component => self.max_component_bytes,
            What::Settings => SETTINGS_BYTES,
        };
        let (stamp, content) = match read(path, what, most) {
            Ok(Some((stamp, bytes))) => (stamp, Ok(bytes)),
            // It changed while it was read: its writer is not done.
            Ok(None) => return self.written(path, now),
            Err(refusal) => (stamp, Err(refusal)),
        };
        let digest = content.as_ref().ok().map(|bytes| crate::engine::digest(bytes));
        let old = self.known.get(path);
        let same = old.is_some_and(|old| old.digest == digest && (digest.is_some() || old.stamp == stamp));
        self.known.insert(path.to_owned(), Known { id: id.clone(), what, stamp, digest, missed: None });
        if same {
            return;
        }
        let path = path.to_owned();
        found.push(match (content, what) {
            (Ok(bytes), What::Component) => Change::Component { id, path, bytes },
            (Ok(bytes), What::Settings) => match String::from_utf8(bytes) {
                Ok(text) => Change::Settings { id, path, text },
                Err(_) => {
                    let refusal = Refusal::new(SETTINGS_INVALID, "the settings file is not UTF-8");
                    Change::Refused { id, what, path, refusal }
                }
            },
            (Err(refusal), _) => Change::Refused { id, what, path, refusal },
        });
    }
}

/// Whether a file that appeared will be closed by a writer: a link or a pipe will not.
pub(super) fn will_be_closed(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_file() && found.nlink() == 1)
}

/// Reads a regular file of bounded size, following no symlink. `None`: it is gone, or changed meanwhile.
fn read(path: &Path, what: What, most: usize) -> Result<Option<(Stamp, Vec<u8>)>, Refusal> {
    let refuse = |reason: &str| Err(Refusal::new(BAD_PLUGIN_PATH, reason));
    // NONBLOCK: opening a pipe that nobody writes to must not hang.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let mut file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(descriptor) => File::from(descriptor),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(rustix::io::Errno::LOOP) => return refuse("symlinks are not followed: put the file itself here"),
        Err(e) => return refuse(&format!("the file cannot be opened: {e}")),
    };
    let Ok(before) = file.metadata() else { return Ok(None) };
    if !before.is_file() {
        return refuse("it is not a regular file");
    }
    if before.len() > most as u64 {
        return Err(match what {
            What::Component => Engine::too_large(before.len(), most),
            What::Settings => {
                let message = format!("the settings file has {} bytes, {most} are allowed", before.len());
                Refusal::new(SETTINGS_INVALID, message)
            }
        });
    }
    let mut bytes = Vec::new();
    if let Err(e) = file.by_ref().take(before.len() + 1).read_to_end(&mut bytes) {
        return refuse(&format!("the file cannot be read: {e}"));
    }
    let after = file.metadata().ok().map(|found| stamp_of(&found));
    let before = stamp_of(&before);
    Ok((after == Some(before) && bytes.len() as u64 == before.size).then_some((before, bytes)))
}

fn stamp(path: &Path) -> Option<Stamp> {
    fs::symlink_metadata(path).ok().filter(|found| !found.is_dir()).map(|found| stamp_of(&found))
}

fn stamp_of(found: &Metadata) -> Stamp {
    Stamp { size: found.size(), modified: (found.mtime(), found.mtime_nsec()), inode: (found.dev(), found.ino()) }
}

/// Whether nobody has written to it lately, by the clock of the file system.
fn is_old(path: &Path) -> bool {
    let modified = fs::symlink_metadata(path).and_then(|found| found.modified());
    modified.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age >= SETTLED_AGE))
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."))
}
