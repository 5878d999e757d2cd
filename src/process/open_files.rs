//! How many files and sockets the process may have open, held against what it needs.
//!
//! A server that runs out of descriptors cannot open the files of its store either, and a write that fails stops the
//! store. So connections get what is left once the store has its share.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors kept for everything but connections: 256 runs of the dedupe table, 14 layers with 4 each, the
/// journal with 8, a scratch copy or two, the runtime and standard streams: under 400, and a quarter more.
pub const RESERVED_FILES: u64 = 512;

/// Raises the limit of this process as far as it may, and returns how many of `connections` fit under it.
///
/// # Errors
/// The limit cannot be read or raised.
pub fn make_room(connections: usize) -> io::Result<usize> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    }
    Ok(fitting(limit.maximum, connections))
}

/// How many of `connections` fit under `limit`; `None` is no limit.
fn fitting(limit: Option<u64>, connections: usize) -> usize {
    let Some(limit) = limit else { return connections };
    let left = limit.saturating_sub(RESERVED_FILES);
    usize::try_from(left).map_or(connections, |left| left.min(connections))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_has_its_share_first() {
        assert_eq!(fitting(None, 4096), 4096);
        assert_eq!(fitting(Some(4096 + RESERVED_FILES), 4096), 4096);
        assert_eq!(fitting(Some(4095 + RESERVED_FILES), 4096), 4095);
        assert_eq!(fitting(Some(RESERVED_FILES), 4096), 0);
        assert_eq!(fitting(Some(3), 4096), 0);
    }

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_one() {
        let fit = make_room(1).unwrap();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
        assert_eq!(fit, fitting(limit.maximum, 1));
    }
}
