//! A small file system, which fills up.

use std::path::Path;
use std::process::Command;

/// A small file system that is gone with its value.
#[derive(Debug)]
pub struct Mount(tempfile::TempDir);

impl Mount {
    /// Mounts one of this size; `None` for those who may not mount.
    ///
    /// # Errors
    /// When its folder cannot be made.
    pub fn new(size: &str) -> anyhow::Result<Option<Self>> {
        let folder = tempfile::tempdir()?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(folder.path());
        let is_mounted = mount.output().is_ok_and(|output| output.status.success());
        Ok(is_mounted.then_some(Self(folder)))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // A mount that stays is seen by whoever looks; there is nobody to tell here.
        drop(Command::new("umount").arg("-l").arg(self.0.path()).status());
    }
}
