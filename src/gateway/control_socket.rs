//! The control socket: bound at the start, and made again where it is removed, or the runtime
//! directory with it.

use std::{
    fs, io, os::unix::fs::MetadataExt, os::unix::net::UnixListener, path::Path, sync::Arc,
    time::Duration,
};

use crate::api::Service;
use crate::dirs::Dirs;
use crate::lifecycle::instance_lock::retake;
use crate::sys::{fs as files, memory, socket};
use crate::threads::pause;

/// How often it is looked whether the control socket's path still leads to it: a command waits for
/// [`CONTROL_TIMEOUT`](crate::limits::CONTROL_TIMEOUT).
const CONTROL_PROBE: Duration = Duration::from_millis(1500);

/// Looks now and then whether its path still leads to the socket, until the gateway drains, and hands over
/// one that was made in its place, with its lock. Not on the main thread: the disk may hang.
pub fn watch(dirs: &Dirs, service: &Arc<Service>, replace: &dyn Fn(UnixListener)) {
    let path = &*dirs.control_socket();
    let (mut bound, mut told, mut lock) = (identity(path), false, None);
    loop {
        pause(CONTROL_PROBE);
        if service.shutdown.is_closing() {
            return;
        }
        let found = identity(path);
        // Nobody uses it, or what was in flight is over: what the looks at files have read of the program
        // goes with it.
        let unused = service.connections.count() == 0 && service.hub.busy() == 0;
        if unused || service.buffers.have_emptied() {
            memory::release_pages();
        }
        if found.is_some() && found == bound {
            continue;
        }
        let dir = path.parent().unwrap_or(path);
        let made = dir.parent().map_or(Ok(()), files::private_dir);
        let held = made.and_then(|()| files::private_dir(dir)).and_then(|()| retake(dirs));
        let made = held.and_then(|held| {
            lock = held.or(lock.take());
            bind(path)
        });
        let (shown, failed) = (path.display(), made.is_err());
        match made {
            Ok(listener) => {
                log::warn!("the control socket {shown} was removed: it is made again");
                bound = identity(path);
                replace(listener);
            }
            Err(e) if !told => log::warn!("the control socket {shown} cannot be made again: {e}"),
            Err(_) => {}
        }
        told = failed;
    }
}

/// Listens at `path`, whose directory is there.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    let listener = socket::bind_unix(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let meta = fs::symlink_metadata(path).ok()?;
    Some((meta.dev(), meta.ino()))
}
