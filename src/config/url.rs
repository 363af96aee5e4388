//! The URLs of callbacks and upstreams: http or https, without anything that two readers could take differently
//! (RFC 3986, less userinfo, fragments and everything that should have been percent-encoded). Pure.

use super::host::host;
use crate::limits::MAX_TARGET;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// Bytes of a URL; its path and query also keep to what servers take ([`MAX_TARGET`]).
const MAX_URL: usize = 4 << 10;

/// Displays as it was given.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    pub secure: bool,
    /// A name in lower case or an address; IPv6 without brackets.
    pub host: String,
    pub port: u16,
    /// What a request asks for: path and query, beginning with `/`.
    pub target: String,
    /// Host and port as a `Host` header has them.
    pub authority: String,
}

impl Url {
    /// # Errors
    /// The reason as the end of "… is VALUE; it …".
    pub fn parse(text: &str) -> Result<Url, String> {
        let (secure, rest) = match text.split_once("://") {
            Some(("https", rest)) => (true, rest),
            Some(("http", rest)) => (false, rest),
            _ => return Err("it must begin with http:// or https://".to_owned()),
        };
        let (authority, target) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err("it must not hold credentials: they belong in a file".to_owned());
        }
        if target.contains('#') {
            return Err("it must not have a #fragment, which no server sees".to_owned());
        }
        if text.len() > MAX_URL || target.len() > MAX_TARGET {
            return Err(format!("it must not be longer than {MAX_URL} bytes"));
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (authority, None),
        };
        let usual = if secure { 443 } else { 80 };
        let port = match port.map(|port| (port, port.parse::<u16>())) {
            None => usual,
            Some((text, Ok(port @ 1..))) if !text.starts_with('+') => port,
            Some(_) => return Err("its port must be a number from 1 to 65535".to_owned()),
        };
        let (host, shown) = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            Some(inside) => {
                let address: Ipv6Addr =
                    inside.parse().map_err(|_| "what is in [ ] must be an IPv6 address")?;
                (address.to_string(), format!("[{address}]"))
            }
            None if host.contains(':') => {
                return Err("an IPv6 address in it must stand in [ ]".to_owned());
            }
            None => {
                let host = self::host(host).map_err(|_| "its host must be a name or an address")?;
                (host.clone(), host)
            }
        };
        if let Some((_, bad)) = target.char_indices().find(|(at, c)| !allowed(&target[*at..], *c)) {
            return Err(format!("{bad:?} in it must be percent-encoded"));
        }
        let slash = if target.starts_with('/') { "" } else { "/" };
        Ok(Url {
            secure,
            host,
            port,
            target: format!("{slash}{target}"),
            authority: if port == usual { shown } else { format!("{shown}:{port}") },
        })
    }

    /// The base of an OpenAI-compatible server. An origin alone means its `/v1`; one with a `/` at its
    /// end means that there is no such path.
    ///
    /// # Errors
    /// As above, and for the full URL of an endpoint, with its base.
    pub fn base(text: &str) -> Result<Url, String> {
        let mut url = Url::parse(text)?;
        let (path, query) = url.target.split_at(url.target.find('?').unwrap_or(url.target.len()));
        for (endpoint, instead) in ENDPOINTS {
            if let Some(base) = path.trim_end_matches('/').strip_suffix(endpoint) {
                let base = format!("{base}{instead}");
                let (at, base) = (url.origin(), if base.is_empty() { "/" } else { &base });
                let fix = format!("write \"{at}{base}{query}\"");
                return Err(format!("it must be a base, without {endpoint} ({fix})"));
            }
        }
        let given = text.split_once("://").map_or(text, |(_, given)| given);
        if !given.split('?').next().unwrap_or_default().contains('/') {
            url.target = format!("/v1{query}");
        }
        Ok(url)
    }

    /// The base of a Bot API server.
    ///
    /// # Errors
    /// As above, and for one with a query.
    pub fn api(text: &str) -> Result<Url, String> {
        let url = Url::parse(text)?;
        match url.target.contains('?') {
            true => Err("it must be a base, without a query".to_owned()),
            false => Ok(url),
        }
    }

    /// The target of a request to what is below this URL; its query stays at the end, also of one in `path`.
    pub fn below(&self, path: &str) -> String {
        let at = self.target.find('?').unwrap_or(self.target.len());
        let (base, query) = self.target.split_at(at);
        let more = path.contains('?') && !query.is_empty();
        let (sign, query) = if more { ("&", &query[1..]) } else { ("", query) };
        format!("{}{path}{sign}{query}", base.trim_end_matches('/'))
    }

    /// What is sent there stays on this machine.
    pub fn is_loopback(&self) -> bool {
        let address = self.host.parse::<IpAddr>();
        self.host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    }

    /// Scheme, host and port: what may stand in a log, while paths of callbacks are often secrets.
    pub fn origin(&self) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        format!("{scheme}://{}", self.authority)
    }
}

/// What is no base but an endpoint, of OpenAI's API or Ollama's own, and what stands in its place in the
/// base that was meant.
const ENDPOINTS: [(&str, &str); 6] = [
    ("/chat/completions", ""),
    ("/completions", ""),
    ("/responses", ""),
    ("/v1/models", "/v1"),
    ("/api/chat", "/v1"),
    ("/api/generate", "/v1"),
];

/// What a path or a query may hold as it is (RFC 3986 sections 3.3 and 3.4).
fn allowed(rest: &str, c: char) -> bool {
    let hex = |at| rest.as_bytes().get(at).is_some_and(u8::is_ascii_hexdigit);
    match c {
        '%' => hex(1) && hex(2),
        _ => c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@/?".contains(c),
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin(), self.target)
    }
}

/// Without what may be secret in it.
impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.origin())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_are_accepted_are_parsed() {
        for (text, authority, port, target, shown) in [
            ("http://a", "a", 80, "/", "http://a/"),
            (
                "https://A.example:443/x?y=%2F&z",
                "a.example",
                443,
                "/x?y=%2F&z",
                "https://a.example/x?y=%2F&z",
            ),
            ("http://127.0.0.1:8080?q", "127.0.0.1:8080", 8080, "/?q", "http://127.0.0.1:8080/?q"),
            ("https://[::1]/", "[::1]", 443, "/", "https://[::1]/"),
            ("http://[0:0::1]:81/a@b:c", "[::1]:81", 81, "/a@b:c", "http://[::1]:81/a@b:c"),
        ] {
            let url = Url::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            let found = (url.authority.as_str(), url.port, url.target.as_str(), url.to_string());
            assert_eq!(found, (authority, port, target, shown.to_owned()), "{text}");
            assert_eq!(Url::parse(&url.to_string()).unwrap(), url);
        }
        for (text, below) in [
            ("http://a", "/models"),
            ("http://a/v1", "/v1/models"),
            ("http://a/v1/?x=/", "/v1/models?x=/"),
        ] {
            assert_eq!(Url::parse(text).unwrap().below("/models"), below, "{text}");
        }
        let url = Url::parse("http://a/v1?x=1").unwrap();
        assert_eq!(url.below("/models?y=2"), "/v1/models?y=2&x=1");
        for (host, loopback) in [
            ("localhost", true),
            ("127.1.2.3", true),
            ("[::1]", true),
            ("10.0.0.1", false),
            ("a", false),
        ] {
            let url = Url::parse(&format!("http://{host}")).unwrap();
            assert_eq!(url.is_loopback(), loopback, "{host}");
        }
        assert_eq!(Url::parse("https://[::1]:1/").unwrap().host, "::1");
        assert_eq!(format!("{:?}", Url::parse("http://a/secret").unwrap()), "http://a");
    }

    #[test]
    fn a_base_is_completed_or_rejected_where_it_is_the_url_of_an_endpoint() {
        for (text, base) in [
            ("http://a", "http://a/v1"),
            ("http://a:11434", "http://a:11434/v1"),
            ("https://a?x=/", "https://a/v1?x=/"),
            ("http://[::1]:1", "http://[::1]:1/v1"),
            // A slash says that there is no path, and what has one is known to whoever wrote it.
            ("https://a/", "https://a/"),
            ("https://a/?x=1", "https://a/?x=1"),
            ("http://a/v1", "http://a/v1"),
            ("http://a/v1/", "http://a/v1/"),
            (
                "https://a/openai/deployments/b?api-version=1",
                "https://a/openai/deployments/b?api-version=1",
            ),
            ("https://a/models", "https://a/models"),
        ] {
            let url = Url::base(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(url.to_string(), base);
            assert_eq!(Url::base(base).unwrap(), url);
        }
        for (text, endpoint, base) in [
            ("http://a/v1/chat/completions", "/chat/completions", "http://a/v1"),
            ("http://a/v1/chat/completions/?x=1", "/chat/completions", "http://a/v1?x=1"),
            ("http://a:1/chat/completions", "/chat/completions", "http://a:1/"),
            ("https://a/v1/completions", "/completions", "https://a/v1"),
            ("https://a/v1/responses", "/responses", "https://a/v1"),
            ("https://a/v1/models", "/v1/models", "https://a/v1"),
            ("http://a:1/api/chat", "/api/chat", "http://a:1/v1"),
        ] {
            let expected = format!("it must be a base, without {endpoint} (write \"{base}\")");
            assert_eq!(Url::base(text).unwrap_err(), expected);
        }
    }

    #[test]
    fn urls_that_are_no_http_urls_are_rejected_with_a_reason() {
        let long = format!("http://a/{}", "x".repeat(MAX_URL));
        for bad in [
            "",
            "a",
            "ftp://a",
            "HTTP://a",
            "http:/a",
            "http://",
            "http:///x",
            "http://:80/",
            "http://u@a/",
            "http://u:p@a/",
            "http://a:/",
            "http://a:0/",
            "http://a:65536/",
            "http://a:+1/",
            "http://a:b/",
            "http://::1/",
            "http://[::1/",
            "http://[a]/",
            "http://[::1%25eth0]/",
            "http://a/#x",
            "http://a#x",
            "http://a/ b",
            "http://a/\n",
            "http://a/\"",
            "http://a/\\",
            "http://a/é",
            "http://é/",
            "http://a\\b/",
            "http://a b/",
            "http://a/%",
            "http://a/%2",
            "http://a/%zz",
            "http://a/{x}",
            "http://a/[1-9]",
            "http://a/\0",
            "http://a\r\nX: y/",
            "http://*/",
            &long,
        ] {
            assert!(Url::parse(bad).is_err(), "{bad:?}");
        }
    }
}
