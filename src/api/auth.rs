//! Who may come in: one function that looks at a request and returns a proof, which every handler
//! that does something asks for.
#![forbid(unsafe_code)]

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use subtle::ConstantTimeEq;

use crate::http::Request;
use crate::limits::MIN_KEY;

/// Where a connection came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Tcp(SocketAddr),
    /// The control socket, by a process of this uid that was let in.
    Control {
        uid: u32,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Tcp(address) => address.fmt(f),
            Origin::Control { uid } => write!(f, "uid {uid} on the control socket"),
        }
    }
}

/// The secret that clients on TCP show. Printed as `Key(…)`.
pub struct Key(String);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

impl Key {
    /// Takes a key from a file's text: one line, printable, long enough.
    ///
    /// # Errors
    /// What is wrong with it, without quoting it.
    pub fn parse(text: &str) -> Result<Key, String> {
        let key = text.trim_end_matches(['\n', '\r']);
        if key.len() < MIN_KEY {
            return Err(format!("the key has {} characters, it needs {MIN_KEY}", key.len()));
        }
        if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("the key has white space or characters beyond ASCII".to_owned());
        }
        Ok(Key(key.to_owned()))
    }
}

/// The principal of the key, and of the control socket: whoever may use the socket may read the key.
pub const OWNER: &str = "owner";

/// The proof that a request was let in, and who it is from. Only [`authenticate`] makes one.
#[derive(Debug)]
pub struct Authenticated(&'static str);

impl Authenticated {
    /// Sessions and messages belong to a principal.
    pub fn principal(&self) -> &str {
        self.0
    }
}

/// Lets in whoever shows the key, and whoever the kernel has vouched for on the control socket.
pub fn authenticate(request: &Request, origin: Origin, key: &Key) -> Option<Authenticated> {
    match origin {
        Origin::Control { .. } => Some(Authenticated(OWNER)),
        Origin::Tcp(_) => {
            let (scheme, shown) = request.header_text("Authorization")?.split_once(' ')?;
            let shown = shown.trim_matches(' ').as_bytes();
            let same: bool = shown.ct_eq(key.0.as_bytes()).into();
            (scheme.eq_ignore_ascii_case("bearer") && same).then_some(Authenticated(OWNER))
        }
    }
}

/// Whether a `host[:port]` names us. Addresses always do: DNS rebinding needs a name. Names are
/// `localhost` and those of `http.allowed_hosts`.
pub fn host_is_ours(authority: &str, allowed: &[String]) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    };
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    let name = bare.strip_suffix('.').unwrap_or(bare);
    bare.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || allowed.iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// Whether a page of this origin may use us: only one that we served ourselves.
pub fn origin_is_ours(origin: &[u8], host: Option<&str>) -> bool {
    let authority = std::str::from_utf8(origin)
        .ok()
        .and_then(|o| o.strip_prefix("http://").or_else(|| o.strip_prefix("https://")));
    matches!((authority, host), (Some(a), Some(h)) if a.eq_ignore_ascii_case(h))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_are_no_secret_are_refused_without_being_quoted() {
        assert!(Key::parse("").is_err());
        assert!(Key::parse("\n").is_err());
        let short = Key::parse("hunter2\n").unwrap_err();
        assert!(!short.contains("hunter2"), "{short}");
        assert!(Key::parse(&"a b".repeat(20)).is_err());
        assert!(Key::parse(&"a".repeat(32)).is_ok());
        assert_eq!(format!("{:?}", Key::parse(&"s".repeat(64)).unwrap()), "Key(…)");
    }

    #[test]
    fn hosts() {
        let allowed = ["gateway.example".to_owned()];
        for ours in [
            "127.0.0.1",
            "127.0.0.1:8642",
            "[::1]:8642",
            "[::1]",
            "localhost",
            "LOCALHOST:1",
            "localhost.",
            "192.168.1.7:80",
            "gateway.example:443",
            "Gateway.Example",
        ] {
            assert!(host_is_ours(ours, &allowed), "{ours}");
        }
        for foreign in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "",
            ":80",
            "xgateway.example",
            "0x7f.1",
            "localhost:80:80",
        ] {
            assert!(!host_is_ours(foreign, &allowed), "{foreign}");
        }
    }

    #[test]
    fn origins() {
        let host = Some("127.0.0.1:8642");
        assert!(origin_is_ours(b"http://127.0.0.1:8642", host));
        for foreign in ["null", "http://127.0.0.1", "http://evil.example", "", "\u{ff}"] {
            assert!(!origin_is_ours(foreign.as_bytes(), host), "{foreign}");
        }
        assert!(!origin_is_ours(b"http://x", None));
    }
}
