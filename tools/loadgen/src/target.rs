//! Whom load may be sent to: this machine and no other.

use std::net::{Ipv4Addr, SocketAddr};

use crate::Fault;

/// Reads `http://ADDRESS:PORT`. The address is a number of the loopback network, or `localhost`.
///
/// # Errors
/// Anything else: a load generator that can be pointed elsewhere is a weapon.
pub fn parse(url: &str) -> Result<SocketAddr, Fault> {
    let place = url.strip_prefix("http://").map(|rest| rest.strip_suffix('/').unwrap_or(rest));
    let address = place.and_then(|place| match place.strip_prefix("localhost:") {
        Some(port) => port.parse().ok().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        None => place.parse().ok(),
    });
    match address {
        Some(address) if address.ip().is_loopback() && address.port() != 0 => Ok(address),
        Some(_) => Err(Fault::unable(
            "only a loopback address is accepted; run this tool on the machine of the server",
        )),
        None => Err(Fault::unable("not a URL like http://127.0.0.1:8117")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_accepted() {
        for good in
            ["http://127.0.0.1:8117", "http://127.9.9.9:1/", "http://[::1]:8117", "http://localhost:80"]
        {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in [
            "http://10.0.0.1:8117",
            "http://0.0.0.0:8117",
            "http://[::]:8117",
            "http://127.0.0.1",
            "http://127.0.0.1:0",
            "http://varve.example:80",
            "http://localhost.example:80",
            "http://127.0.0.1:8117@10.0.0.1:80",
            "https://127.0.0.1:8117",
            "127.0.0.1:8117",
            "",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
