//! Where a server is: the URL, and whether a key may travel to it.
//!
//! A key in clear on a network is a key that others have. So `http://` is for this machine, unless the caller says
//! otherwise; a redirect is never followed, because it would carry the key to whoever it names.

use std::net::IpAddr;

/// A base URL that can be spoken to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Address {
    /// Without a slash at the end.
    pub(super) url: String,
    /// Whether the host is this machine.
    pub(super) is_loopback: bool,
}

/// Why a URL is no address of a server. Nothing was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadUrl {
    /// Another scheme, or none.
    #[error("the URL is not http://…")]
    Scheme,
    /// `https://`, which this version cannot speak.
    #[error("this build speaks no TLS")]
    NoTls,
    /// No host, or a user's name before it.
    #[error("the URL has no host")]
    Host,
    /// A query or a fragment: what follows the base is the client's to write.
    #[error("the URL has a `?` or `#`; give the part before it")]
    NotABase,
    /// `http://` to another machine.
    #[error("the key would travel in clear to another machine; put a TLS proxy on this one, or allow it")]
    InClear,
}

impl Address {
    /// Reads a base URL; `may_be_in_clear` lets a key travel to another machine without TLS.
    pub(super) fn parse(url: &str, may_be_in_clear: bool) -> Result<Address, BadUrl> {
        let is_loopback = is_loopback(host(url)?);
        if !is_loopback && !may_be_in_clear {
            return Err(BadUrl::InClear);
        }
        Ok(Address { url: url.trim_end_matches('/').to_owned(), is_loopback })
    }
}

/// The host of a base URL.
///
/// # Errors
/// What is wrong with the URL.
pub fn host(url: &str) -> Result<&str, BadUrl> {
    let Some(rest) = url.strip_prefix("http://") else {
        return Err(if url.starts_with("https://") { BadUrl::NoTls } else { BadUrl::Scheme });
    };
    if rest.contains(['?', '#']) {
        return Err(BadUrl::NotABase);
    }
    let authority = rest.split('/').next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    if host.is_empty() || authority.contains('@') {
        return Err(BadUrl::Host);
    }
    Ok(host)
}

/// Whether `host` is this machine: `localhost`, or an address that never leaves it.
pub fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_found_and_loopback_is_known() {
        for (url, expected, here) in [
            ("http://127.0.0.1:8117", "127.0.0.1", true),
            ("http://[::1]:8117/x", "::1", true),
            ("http://localhost", "localhost", true),
            ("http://audit.example.org:80", "audit.example.org", false),
            ("http://127.0.0.1.example.org", "127.0.0.1.example.org", false),
        ] {
            let found = host(url).unwrap();
            assert_eq!((found, is_loopback(found)), (expected, here));
            assert_eq!(Address::parse(url, false).is_ok(), here, "{url}");
            assert!(Address::parse(url, true).is_ok(), "{url}");
        }
    }

    #[test]
    fn what_is_no_base_url_is_refused() {
        for (url, why) in [
            ("https://x", BadUrl::NoTls),
            ("x:8117", BadUrl::Scheme),
            ("ftp://x", BadUrl::Scheme),
            ("http://", BadUrl::Host),
            ("http://user@x", BadUrl::Host),
            ("http://localhost?to=x", BadUrl::NotABase),
            ("http://localhost/#x", BadUrl::NotABase),
        ] {
            assert_eq!(Address::parse(url, true), Err(why), "{url}");
        }
        assert_eq!(Address::parse("http://localhost:1//", false).unwrap().url, "http://localhost:1");
        assert_eq!(Address::parse("http://10.0.0.1", false), Err(BadUrl::InClear));
    }
}
