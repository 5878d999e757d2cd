//! What is kept at hand of logs, up to so many bytes.

use std::collections::HashMap;

/// What one log may take besides what is kept of it.
const ENTRY_BYTES: usize = 64;

/// Something of each log, by its number. What does not fit displaces what is of other logs, whichever they are: it is
/// read again when it is wanted.
pub(super) struct Kept<T> {
    most_bytes: usize,
    bytes: usize,
    by_log: HashMap<u32, (T, usize)>,
}

impl<T> Kept<T> {
    /// Nothing yet, and `most_bytes` at most.
    pub(super) fn new(most_bytes: usize) -> Kept<T> {
        Kept { most_bytes, bytes: 0, by_log: HashMap::new() }
    }

    /// What is kept of a log.
    pub(super) fn get(&self, log: u32) -> Option<&T> {
        self.by_log.get(&log).map(|(kept, _)| kept)
    }

    /// Keeps what takes so many bytes, in place of what was kept of the log. What alone is too much is not kept.
    pub(super) fn put(&mut self, log: u32, kept: T, bytes: usize) {
        let bytes = bytes + ENTRY_BYTES;
        self.remove(log);
        if bytes > self.most_bytes {
            return;
        }
        while self.bytes + bytes > self.most_bytes {
            let Some(other) = self.by_log.keys().next().copied() else { break };
            self.remove(other);
        }
        self.bytes += bytes;
        self.by_log.insert(log, (kept, bytes));
    }

    fn remove(&mut self, log: u32) {
        if let Some((_, bytes)) = self.by_log.remove(&log) {
            self.bytes -= bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_displaces_others() {
        let mut kept = Kept::new(10 * (ENTRY_BYTES + 10));
        for log in 0..100u32 {
            kept.put(log, log, 10);
            assert_eq!(kept.get(log), Some(&log));
            assert!(kept.bytes <= kept.most_bytes && kept.by_log.len() <= 10, "{log}");
        }
        assert_eq!(kept.by_log.len(), 10);
        kept.put(99, 7, 10);
        assert_eq!((kept.get(99), kept.by_log.len()), (Some(&7), 10));
        kept.put(99, 8, 10 * (ENTRY_BYTES + 10));
        assert_eq!((kept.get(99), kept.by_log.len()), (None, 9));
    }
}
