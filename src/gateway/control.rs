//! The control socket: bound at the start, and made again where somebody removes it, or the runtime
//! directory with it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use crate::api::Service;
use crate::exit::Failure;
use crate::limits::CONTROL_PROBE;
use crate::sys::{fs as files, socket};

/// Listens at `path`, whose directory is there.
pub fn listen(path: &Path) -> Result<UnixListener, Failure> {
    bind(path).map_err(|e| Failure::with("listen on", path, &e))
}

/// Looks now and then whether `path` still leads to the socket, until the gateway ends its work, and
/// hands over one that was made in its place. Not on the main thread: the disk may hang.
pub fn watch(path: &Path, service: &Arc<Service>, replace: &dyn Fn(UnixListener)) {
    let mut told = false;
    // At the start it was bound just now.
    let mut bound = identity(path).ok();
    loop {
        thread::sleep(CONTROL_PROBE);
        let found = match identity(path) {
            Ok(found) => Some(found),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(_) => continue,
        };
        if service.gate.is_closing() {
            return;
        }
        if found.is_some() && found == bound {
            continue;
        }
        let dir = path.parent().unwrap_or(path);
        let made = dir.parent().map_or(Ok(()), files::private_dir);
        match made.and_then(|()| files::private_dir(dir)).and_then(|()| bind(path)) {
            Ok(listener) => {
                log::warn!("the control socket {} was removed: it is made again", path.display());
                (bound, told) = (identity(path).ok(), false);
                replace(listener);
            }
            Err(e) if !std::mem::replace(&mut told, true) => {
                let path = path.display();
                log::warn!("the control socket {path} was removed and cannot be made again: {e}");
            }
            Err(_) => {}
        }
        // The end has removed it, and found nothing to remove.
        if service.gate.is_closing() {
            let _ = fs::remove_file(path);
            return;
        }
    }
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    let listener = socket::bind_unix(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let meta = fs::symlink_metadata(path)?;
    Ok((meta.dev(), meta.ino()))
}
