//! A disk whose power can be cut: a file system in a file, mounted through a loop device. To be used
//! inside of [`super::Private`], which takes it down even when nobody else can.

use std::ffi::CStr;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{eventually, sys};

/// Mounted for as long as it lives.
pub struct Disk {
    kind: &'static str,
    image: PathBuf,
    at: PathBuf,
}

impl Disk {
    /// What a test that uses one needs, as [`super::Private::needs`] wants it.
    pub const NEEDS: [(&'static str, &'static str); 3] = [
        ("e2fsprogs", "/sbin/mkfs.ext4"),
        ("xfsprogs", "/sbin/mkfs.xfs"),
        ("a kernel with loop devices", "/dev/loop-control"),
    ];

    /// A new file system ("ext4", "xfs") in a file of this directory, mounted at another.
    #[track_caller]
    pub fn new(kind: &'static str, dir: &Path, at: &Path) -> Disk {
        let image = dir.join(kind);
        // XFS takes no less than 300 MB; what is not written takes no room.
        let size = if kind == "xfs" { 300 << 20 } else { 64 << 20 };
        File::create(&image).and_then(|file| file.set_len(size)).expect("make an image");
        run(Command::new(format!("mkfs.{kind}")).arg("-q").arg(&image));
        let disk = Disk { kind, image, at: at.to_owned() };
        disk.mount();
        fs::set_permissions(at, fs::Permissions::from_mode(0o700)).unwrap();
        disk
    }

    /// Lets nothing more reach the disk.
    #[track_caller]
    pub fn cut_power(&self) {
        sys::shut_down_file_system(&self.at).expect("shut the file system down");
    }

    /// Takes it down and mounts it again, as a boot does.
    #[track_caller]
    pub fn remount(&self) {
        eventually("nobody uses the disk", || sys::unmount(&self.at, false).ok());
        self.mount();
    }

    /// Lets every write hang until what this returns is dropped.
    #[track_caller]
    pub fn freeze(&self) -> Frozen {
        sys::freeze_file_system(&self.at, true).expect("freeze the file system");
        Frozen(self.at.clone())
    }

    #[track_caller]
    fn mount(&self) {
        let mut mount = Command::new("mount");
        // Freed with its last user.
        run(mount.args(["-o", "loop", "-t", self.kind]).arg(&self.image).arg(&self.at));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = sys::unmount(&self.at, true);
    }
}

/// A file system that is frozen for as long as this lives.
pub struct Frozen(PathBuf);

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = sys::freeze_file_system(&self.0, false);
    }
}

/// A tmpfs that is mounted for as long as this lives.
pub struct Tmpfs(PathBuf);

impl Tmpfs {
    #[track_caller]
    pub fn new(at: &Path, options: &CStr) -> Tmpfs {
        sys::mount_tmpfs(at, options).expect("mount a tmpfs");
        Tmpfs(at.to_owned())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = sys::unmount(&self.0, true);
    }
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}
