//! Sockets that whoever started us has opened: sd_listen_fds(3), as systemd does for a `.socket` unit and
//! for what a service has put into its file descriptor store.

use std::{ffi::OsString, os::fd::OwnedFd};

use crate::sys::{exec::take_variable, fd, gather::Gather, process::Pid};

/// The number of the first.
const FIRST: i32 = 3;

/// What a descriptor is called that came without a name.
const NO_NAME: &str = "unknown";

/// A descriptor that was handed over.
#[derive(Debug)]
pub struct Given {
    pub number: i32,
    pub name: String,
    pub descriptor: OwnedFd,
}

/// Takes the descriptors, and their variables out of the environment: none where they are for another
/// process. To be called once, by the only thread there is, before anything is opened: that would have a
/// number that should have been open.
///
/// # Errors
/// One line where the variables and what is open contradict each other.
pub fn take() -> Result<Vec<Given>, String> {
    let [pid, count, names] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"].map(|name| {
        let text = take_variable(name).map(OsString::into_string);
        text.map(|text| text.unwrap_or_else(|raw| raw.to_string_lossy().into_owned()))
    });
    // Of another process, our parent as a rule: it is not for us.
    let (Some(pid), Some(count)) = (pid, count) else { return Ok(Vec::new()) };
    if pid != Pid::own().to_string() {
        return Ok(Vec::new());
    }
    named(&count, names.as_deref())?
        .into_iter()
        .zip(FIRST..)
        .map(|(name, number)| match fd::adopt(number) {
            Ok(descriptor) => Ok(Given { number, name, descriptor }),
            Err(_) => Err(format!("LISTEN_FDS={count}, but descriptor {number} is not open")),
        })
        .collect()
}

/// A name for each of them.
fn named(count: &str, names: Option<&str>) -> Result<Vec<String>, String> {
    let count: usize = count
        .parse()
        .ok()
        .filter(|count| *count <= fd::max_open())
        .ok_or_else(|| format!("LISTEN_FDS={count:?} is no number of descriptors"))?;
    let Some(names) = names else { return Ok(vec![NO_NAME.to_owned(); count]) };
    let named: Vec<String> = names.split(':').map(str::to_owned).gather();
    if named.len() != count && !(count == 0 && names.is_empty()) {
        return Err(format!("LISTEN_FDS={count}, but LISTEN_FDNAMES={names:?}"));
    }
    Ok(named.into_iter().take(count).gather())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_descriptor_has_a_name() {
        let list = |names: &[&str]| Ok(names.iter().map(|name| (*name).to_owned()).collect());
        assert_eq!(named("2", Some("http:control")), list(&["http", "control"]));
        assert_eq!(named("1", Some("a.socket")), list(&["a.socket"]));
        assert_eq!(named("2", None), list(&["unknown", "unknown"]));
        assert_eq!(named("0", Some("")), list(&[]));
        assert_eq!(named("1", Some("")), list(&[""]));
        for (count, names) in [
            ("2", Some("http")),
            ("1", Some("a:b")),
            ("x", None),
            ("", None),
            ("-1", None),
            ("18446744073709551615", None),
        ] {
            assert!(named(count, names).is_err(), "{count} {names:?}");
        }
    }
}
