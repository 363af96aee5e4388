//! Host names as a `Host` header and URLs have them. Pure.

use std::net::IpAddr;

/// A host name's length in characters (RFC 1035 section 2.3.4, less the two length octets).
const MAX_HOST_NAME: usize = 253;

/// One label of a host name (RFC 1035 section 2.3.4).
const MAX_HOST_LABEL: usize = 63;

/// A host name or IP address without port; lower case.
pub fn host(text: &str) -> Result<String, String> {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= MAX_HOST_LABEL
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let name = text.len() <= MAX_HOST_NAME && text.split('.').all(label);
    if let Ok(address) = text.parse::<IpAddr>() {
        Ok(address.to_string())
    } else if name {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("it must be a host name or an IP address without scheme, port, path, brackets or \
             wildcard, like \"gateway.example.org\" or \"::1\""
            .to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_host_names_are_accepted_as_hosts() {
        for good in ["a", "a-b.c", "x_y", "127.0.0.1", "::1", "1.2.3"] {
            assert_eq!(host(good).as_deref(), Ok(good));
        }
        assert_eq!(host("Example.ORG").as_deref(), Ok("example.org"));
        assert_eq!(host("0:0::1").as_deref(), Ok("::1"));
        let long = format!("{}.org", "a".repeat(64));
        for bad in [
            "", ".", "a.", "a:1", "[::1]", "http://a", "a/b", "*", "*.a", "-a", "a-", "a b", "é",
            "a\n", "::1%eth0", &long,
        ] {
            assert!(host(bad).is_err(), "{bad:?}");
        }
        assert!(host(&"a.".repeat(200)).is_err());
    }
}
