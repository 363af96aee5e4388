//! What one image of the process hands to the next over an exec: a file in memory with one JSON object that
//! names the descriptors, whose number an environment variable tells.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::api::HandedOver;
use crate::exit::{Exit, Failure};
use crate::limits::MAX_HANDOVER;
use crate::sys::exec::take_variable;
use crate::sys::fd::{adopt, memory_file};
use crate::sys::fs as files;
use crate::sys::gather::Gather;
use crate::sys::process::Pid;
use crate::sys::socket::Listener;
use crate::systemd::listen_fds::{self, Given};
use crate::threads::lock;

/// The variable with the number of the file's descriptor.
const VARIABLE: &str = "HERMES_GATEWAY_HANDOVER";

/// What a process that takes over says to the one before it when it serves.
pub const READY: u8 = b'R';

/// The names of the locks' descriptors, in the order of [`crate::lifecycle::instance_lock::InstanceLock`].
pub const LOCKS: [&str; 3] = ["lock-runtime", "lock-state", "lock-state-file"];

/// What the process had before it became this program.
#[derive(Debug, Default)]
pub struct Handover {
    /// How often this process has been executed anew.
    pub generation: u64,
    /// The version of the program before.
    pub version: String,
    /// What the process was called.
    pub name: String,
    /// The soft limit on descriptors that it was started with.
    pub soft_limit: Option<u64>,
    /// Its configuration came from a file.
    pub had_file: bool,
    /// The `http.listen` that its listener was bound for; `None`: for the one that counts now.
    pub listen: Option<String>,
    /// Whoever opened that listener keeps it.
    pub foreign: bool,
    /// The service manager has copies of both.
    pub kept: bool,
    /// The restart that led here; null: none.
    pub restart: Value,
    descriptors: Vec<(String, OwnedFd)>,
    /// To the process whose place this one takes, which waits for [`READY`].
    pub predecessor: Option<UnixStream>,
    /// Those whose next requests are to be read here.
    pub connections: Vec<HandedOver>,
    /// What whoever started the process has opened for it, by name; or what is wrong with that.
    pub sockets: Option<Result<Vec<Given>, String>>,
}

/// What was handed over and is not taken yet.
pub type Inherited = Arc<Mutex<Handover>>;

impl Handover {
    /// What the image before this one, or else whoever started us, has handed over. To be called while there is
    /// no other thread, and once.
    ///
    /// # Errors
    /// `Config`, naming what is wrong: the variable was not set by a gateway that became this one.
    pub fn take() -> Result<Handover, Failure> {
        let sockets = Some(listen_fds::take());
        let Some(value) = take_variable(VARIABLE) else {
            return Ok(Handover { sockets, ..Handover::default() });
        };
        let wrong = |why: String| {
            let value = value.display();
            Failure::new(Exit::Config, format!("{VARIABLE}={value}: {why}; unset the variable"))
        };
        let number = value.to_str().and_then(|text| text.parse().ok());
        let number = number.ok_or_else(|| wrong("that is no descriptor".to_owned()))?;
        let read =
            || -> io::Result<String> { files::read_text(File::from(adopt(number)?), MAX_HANDOVER) };
        let text = read().map_err(|e| wrong(format!("the descriptor cannot be read: {e}")))?;
        let value = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        Handover::parse(&value, number).map_err(wrong)
    }

    pub(super) fn parse(value: &Value, own: RawFd) -> Result<Handover, String> {
        let pid = Pid::own().get();
        if value["pid"] != pid {
            return Err(format!("it is for pid {}, and this is {pid}", value["pid"]));
        }
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let mut handover = Handover {
            generation: value["generation"].as_u64().unwrap_or_default(),
            version: text("version"),
            name: text("name"),
            soft_limit: value["soft_limit"].as_u64(),
            had_file: value["had_file"] == true,
            listen: value["listen"].as_str().map(str::to_owned),
            foreign: value["foreign"] == true,
            kept: value["kept"] == true,
            restart: value["restart"].clone(),
            ..Handover::default()
        };
        let mut taken = vec![true; 3];
        for (name, number) in value["descriptors"].as_object().into_iter().flatten() {
            let wrong = |why: &str| Err(format!("descriptor {number} ({name}) {why}"));
            match take_number(&mut taken, number, own) {
                None => return wrong("is no descriptor of its own"),
                Some(Ok(fd)) if fits(name, &fd) => handover.descriptors.push((name.clone(), fd)),
                Some(Ok(_)) => return wrong("is not of the type that it should be"),
                Some(Err(e)) => return wrong(&format!("cannot be taken over: {e}")),
            }
        }
        for connection in value["connections"].as_array().into_iter().flatten() {
            let number = &connection["fd"];
            let Some(socket) = take_number(&mut taken, number, own) else {
                return Err(format!("descriptor {number} (a connection) is not its own"));
            };
            // One that is lost is its client's to open again.
            let read = socket.ok().and_then(|socket| HandedOver::from_json(socket, connection));
            match read {
                Some(connection) => handover.connections.push(connection),
                None => log::warn!("a connection is lost, since it was not handed over whole"),
            }
        }
        Ok(handover)
    }

    pub fn take_locks(&mut self) -> Vec<File> {
        LOCKS.iter().filter_map(|name| self.take_descriptor(name)).gather()
    }

    pub fn take_descriptor<T: From<OwnedFd>>(&mut self, name: &str) -> Option<T> {
        let at = self.descriptors.iter().position(|(it, _)| it == name)?;
        Some(self.descriptors.swap_remove(at).1.into())
    }
}

/// Takes a descriptor over by its number; `None` for one that is no number or that something owns: `taken`, or
/// `own`. Owned twice, one of them would be another's once the first is closed.
fn take_number(taken: &mut Vec<bool>, number: &Value, own: RawFd) -> Option<io::Result<OwnedFd>> {
    let number = RawFd::try_from(number.as_i64()?).ok().filter(|number| *number != own)?;
    let at = usize::try_from(number).ok()?;
    if taken.get(at) == Some(&true) {
        return None;
    }
    Some(adopt(number).inspect(|_| {
        taken.resize(taken.len().max(at + 1), false);
        taken[at] = true;
    }))
}

/// Whether a descriptor is what one of this name must be.
fn fits(name: &str, fd: &OwnedFd) -> bool {
    let Ok(copy) = fd.try_clone() else { return false };
    match name {
        "http" => matches!(Listener::of(copy), Ok(Listener::Tcp(..))),
        "control" => matches!(Listener::of(copy), Ok(Listener::Unix(..))),
        lock => {
            let file = File::from(copy).metadata();
            LOCKS.contains(&lock) && file.is_ok_and(|it| !it.file_type().is_socket())
        }
    }
}

/// What goes over an exec: the file that tells the next image of the descriptors, and the variable with its
/// number.
pub struct Sealed {
    pub file: File,
    pub variable: OsString,
}

/// Writes down what the next image gets. `more`: what is no descriptor.
///
/// # Errors
/// No descriptor, or no memory.
pub fn seal(
    descriptors: &[(&str, BorrowedFd<'_>)],
    connections: &[HandedOver],
    mut more: Value,
) -> io::Result<Sealed> {
    more["pid"] = Pid::own().get().into();
    more["version"] = env!("CARGO_PKG_VERSION").into();
    for (name, fd) in descriptors {
        more["descriptors"][*name] = fd.as_raw_fd().into();
    }
    more["connections"] = connections.iter().map(HandedOver::to_json).gather().into();
    let file = memory_file(more.to_string().as_bytes())?;
    let variable = format!("{VARIABLE}={}", file.as_raw_fd()).into();
    Ok(Sealed { file, variable })
}

/// Its number of restarts in place, for what must differ from the image before.
pub fn generation(inherited: &Inherited) -> u64 {
    lock(inherited).generation
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::net::TcpListener;
    use std::os::fd::IntoRawFd;

    fn parse(descriptors: &Value, pid: i32) -> Result<Handover, String> {
        let value = json!({ "pid": pid, "generation": 3, "descriptors": descriptors });
        Handover::parse(&value, -1)
    }

    #[test]
    fn descriptors_are_what_they_should_be_and_each_its_own() {
        let own = Pid::own().get();
        let tcp = || TcpListener::bind("127.0.0.1:0").unwrap().into_raw_fd();
        let file = || File::open("/").unwrap().into_raw_fd();
        let mut good = parse(&json!({ "http": tcp(), "lock-state": file() }), own).unwrap();
        assert_eq!((good.generation, good.take_locks().len()), (3, 1));
        let [http, control] = ["http", "control"].map(|it| good.take_descriptor::<OwnedFd>(it));
        assert!(http.is_some() && control.is_none());
        let refused = |descriptors: &Value| parse(descriptors, own).unwrap_err();
        let number = file();
        let wrong = refused(&json!({ "http": number }));
        assert!(
            wrong.contains(&format!("descriptor {number} (http) is not of the type")),
            "{wrong}"
        );
        assert!(refused(&json!({ "control": tcp() })).contains("(control) is not of the type"));
        assert!(refused(&json!({ "lock-state": tcp() })).contains("is not of the type"));
        assert!(refused(&json!({ "other": file() })).contains("(other) is not of the type"));
        assert!(refused(&json!({ "http": 1 << 20 })).contains("cannot be taken over"));
        assert!(refused(&json!({ "http": 1 })).contains("is no descriptor of its own"));
        let twice = file();
        let wrong = refused(&json!({ "lock-runtime": twice, "lock-state": twice }));
        assert!(wrong.contains("is no descriptor of its own"), "{wrong}");
        assert!(parse(&json!({}), own + 1).unwrap_err().contains("it is for pid"));
    }
}
