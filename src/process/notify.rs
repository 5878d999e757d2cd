//! What the init system is told (sd_notify(3)): one datagram to the socket that it names. Where it names none,
//! nothing is said.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The variable that names the socket.
const SOCKET_ENV: &str = "NOTIFY_SOCKET";

/// The server answers requests.
pub const READY: &str = "READY=1";

/// The server has begun to stop.
pub const STOPPING: &str = "STOPPING=1";

/// Tells the init system `state`, if there is one that listens.
///
/// # Errors
/// The socket is named but does not take the datagram. The server works nevertheless; the init system may give up
/// waiting for it.
pub fn tell(state: &str) -> io::Result<()> {
    tell_at(std::env::var_os(SOCKET_ENV), state)
}

fn tell_at(socket: Option<OsString>, state: &str) -> io::Result<()> {
    let Some(socket) = socket.filter(|name| !name.is_empty()) else { return Ok(()) };
    let address = address(&socket)?;
    let sender = UnixDatagram::unbound()?;
    // A full queue must not hold up the server.
    sender.set_nonblocking(true)?;
    sender.send_to_addr(state.as_bytes(), &address).map(drop)
}

/// A path, or `@` and a name of the abstract namespace.
fn address(socket: &OsStr) -> io::Result<SocketAddr> {
    match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(socket),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "NOTIFY_SOCKET is neither a path nor abstract")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn heard(socket: &UnixDatagram) -> String {
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut bytes = [0; 64];
        let length = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    #[test]
    fn both_kinds_of_socket_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        tell_at(Some(path.into_os_string()), READY).unwrap();
        assert_eq!(heard(&socket), "READY=1");

        let name = format!("varve-test-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        tell_at(Some(format!("@{name}").into()), STOPPING).unwrap();
        assert_eq!(heard(&socket), "STOPPING=1");
    }

    #[test]
    fn without_a_socket_nothing_is_said_and_a_bad_one_is_an_error() {
        tell_at(None, READY).unwrap();
        tell_at(Some(OsString::new()), READY).unwrap();
        assert!(tell_at(Some("relative".into()), READY).is_err());
        assert!(tell_at(Some("/nowhere/notify".into()), READY).is_err());
    }
}
