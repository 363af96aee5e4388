//! Rejects web pages of other sites: Host shows a name that was rebound to our address, Origin a foreign
//! page (Fetch standard, section 3.3). Pages of `http.allowed_origins` are accepted, with a key.

use std::net::IpAddr;

use super::error::ApiError;
use crate::config::Http;
use crate::http::{Request, Response};

/// Seconds for which a browser need not ask again what a page may send; they cap it at two hours.
const PREFLIGHT_AGE: u32 = 7200;

const METHODS: &str = "GET, HEAD, POST, DELETE";

/// The fields that let a page read an answer, for one of `http.allowed_origins`; none for what comes
/// from no page or from our own.
pub fn check(request: &Request, http: &Http) -> Result<Vec<(&'static str, String)>, ApiError> {
    let host = request.host.as_deref();
    if !host.is_none_or(|host| host_is_ours(host, &http.allowed_hosts)) {
        let message = "The gateway does not answer to this host name; if it should, add it to \
                       http.allowed_hosts.";
        return Err(ApiError::new(421, "unknown_host", message));
    }
    let page = request.header("Origin").filter(|page| !origin_is_ours(page, host));
    let Some(page) = page else { return Ok(Vec::new()) };
    let Some(allowed) = http.allowed_origins.iter().find(|known| known.as_bytes() == page) else {
        let message = "Web pages of this origin may not use the gateway; if they should, add it \
                       to http.allowed_origins.";
        return Err(ApiError::new(403, "foreign_origin", message));
    };
    Ok(vec![
        ("Access-Control-Allow-Origin", allowed.clone()),
        (
            "Access-Control-Expose-Headers",
            "Retry-After, Idempotent-Replayed, X-Hermes-Upstream, X-Hermes-Warning".to_owned(),
        ),
        ("Vary", "Origin".to_owned()),
    ])
}

/// The page of another origin that a request came from, by the fields for its answer; empty for none.
pub fn page<'f>(fields: &'f [(&'static str, String)]) -> &'f str {
    fields.first().map_or("", |(_, page)| page)
}

/// The answer to OPTIONS; one that a page sends before a request says what the page may send.
pub fn options(from_page: bool) -> Response {
    let response = Response::empty(204).header("Allow", METHODS);
    if !from_page {
        return response;
    }
    // Any: client libraries tell of themselves in fields of their own. The star alone would leave
    // Authorization out (Fetch standard, section 4.9).
    response
        .header("Access-Control-Allow-Methods", METHODS)
        .header("Access-Control-Allow-Headers", "Authorization, *")
        .header("Access-Control-Max-Age", PREFLIGHT_AGE.to_string())
}

/// Whether a query has a key in it: URLs end up in logs, histories and Referer fields.
pub fn has_key(query: &str) -> bool {
    let names = ["key", "api_key", "apikey", "api-key", "access_token", "token", "authorization"];
    let name = |pair: &str| pair.split('=').next().unwrap_or_default().to_ascii_lowercase();
    query.split('&').any(|pair| names.contains(&name(pair).as_str()))
}

/// Whether a `host[:port]` names us. Addresses always do: DNS rebinding needs a name. Names are
/// `localhost` and those of `http.allowed_hosts`.
fn host_is_ours(authority: &str, allowed: &[String]) -> bool {
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
fn origin_is_ours(origin: &[u8], host: Option<&str>) -> bool {
    let authority = std::str::from_utf8(origin)
        .ok()
        .and_then(|o| o.strip_prefix("http://").or_else(|| o.strip_prefix("https://")));
    matches!((authority, host), (Some(a), Some(h)) if a.eq_ignore_ascii_case(h))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_host_names_are_accepted_as_hosts() {
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
    fn keys_in_urls_are_rejected() {
        for query in ["key=x", "a=b&api_key=x", "Token=", "access_token"] {
            assert!(has_key(query), "{query}");
        }
        for query in ["", "wait=5", "monkey=1", "a=token"] {
            assert!(!has_key(query), "{query}");
        }
    }

    #[test]
    fn only_named_origins_are_allowed() {
        let host = Some("127.0.0.1:8642");
        assert!(origin_is_ours(b"http://127.0.0.1:8642", host));
        for foreign in ["null", "http://127.0.0.1", "http://evil.example", "", "\u{ff}"] {
            assert!(!origin_is_ours(foreign.as_bytes(), host), "{foreign}");
        }
        assert!(!origin_is_ours(b"http://x", None));
    }
}
