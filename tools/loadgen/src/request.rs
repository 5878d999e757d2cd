//! Requests as bytes: made ahead up to a bound, and after that while the clock runs.
//!
//! Request `n` holds the events from `first_event + n × batch` on and goes to tenant `n` modulo their count. One
//! event is a JSON body, more are NDJSON. A request is one piece of memory: one write sends it.

use std::ops::Range;

use crate::admin::Log;
use crate::event;

/// Events of one request that a server takes at most (docs/format/door.md).
pub const MAX_BATCH: usize = 1000;

/// Room for the digits of a body's length. 4 MiB has seven.
const LENGTH_DIGITS: usize = 8;

/// Bytes of an event, for bounds: events have 390 to 410.
const EVENT_BYTES: usize = 412;

/// The requests of one load.
pub struct Requests {
    batch: usize,
    first_event: u64,
    first_log: usize,
    /// Request line and headers of each tenant, up to the digits of the length.
    heads: Vec<Vec<u8>>,
    /// Requests made ahead, one after the other.
    made: Vec<u8>,
    /// Where each of them ends.
    ends: Vec<usize>,
}

impl Requests {
    /// Requests of `batch` events to the logs `which` of `logs`. `first_event` keeps the ids of one load apart from
    /// another's.
    pub fn new(logs: &[Log], which: Range<usize>, batch: usize, first_event: u64) -> Requests {
        let media = if batch == 1 { "application/json" } else { "application/x-ndjson" };
        let first_log = which.start;
        let heads = logs[which].iter().map(|log| {
            format!(
                "POST /v1/tenants/{}/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Type: {media}\r\nContent-Length: ",
                log.tenant, log.key
            )
            .into_bytes()
        });
        Requests { batch, first_event, first_log, heads: heads.collect(), made: Vec::new(), ends: Vec::new() }
    }

    /// Makes `count` requests ahead, or as many as fit into `bytes`.
    pub fn make_ahead(&mut self, count: u64, bytes: usize) {
        let one = self.batch * EVENT_BYTES + self.heads.iter().map(Vec::len).max().unwrap_or(0) + 16;
        let fits = u64::try_from(bytes / one).unwrap_or(u64::MAX).min(count);
        let (mut made, mut ends) = (std::mem::take(&mut self.made), std::mem::take(&mut self.ends));
        made.reserve_exact(usize::try_from(fits).unwrap_or(0) * one);
        for number in ends.len() as u64..fits {
            self.write(number, &mut made);
            ends.push(made.len());
        }
        (self.made, self.ends) = (made, ends);
    }

    /// How many have been made ahead.
    pub fn ahead(&self) -> u64 {
        self.ends.len() as u64
    }

    /// Gives back the memory of what was made ahead.
    pub fn forget_made(&mut self) {
        (self.made, self.ends) = (Vec::new(), Vec::new());
    }

    /// The bytes of request `number`; those that were not made ahead are made in `scratch`.
    pub fn bytes<'a>(&'a self, number: u64, scratch: &'a mut Vec<u8>) -> &'a [u8] {
        let nth = usize::try_from(number).unwrap_or(usize::MAX);
        if let Some(&end) = self.ends.get(nth) {
            let begin = nth.checked_sub(1).map_or(0, |before| self.ends[before]);
            return &self.made[begin..end];
        }
        scratch.clear();
        self.write(number, scratch);
        scratch
    }

    /// Events of each request.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Which of the run's logs request `number` goes to.
    pub fn log_of(&self, number: u64) -> usize {
        self.first_log + self.head_of(number)
    }

    fn head_of(&self, number: u64) -> usize {
        usize::try_from(number % self.heads.len() as u64).unwrap_or(0)
    }

    /// Number of the first event of request `number`.
    pub fn first_event_of(&self, number: u64) -> u64 {
        self.first_event + number * self.batch as u64
    }

    fn write(&self, number: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.heads[self.head_of(number)]);
        let length_at = out.len();
        // Blanks before a value are allowed (RFC 9112 §5), so the length can be filled in at a fixed width.
        out.extend_from_slice(&[b' '; LENGTH_DIGITS]);
        out.extend_from_slice(b"\r\n\r\n");
        let body_at = out.len();
        let first = self.first_event_of(number);
        for event in first..first + self.batch as u64 {
            event::write(event, out);
            if self.batch > 1 {
                out.push(b'\n');
            }
        }
        let length = format!("{:>LENGTH_DIGITS$}", out.len() - body_at);
        out[length_at..length_at + LENGTH_DIGITS].copy_from_slice(length.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(batch: usize) -> Requests {
        let logs = ["x", "a", "b"].map(Log::for_tests);
        Requests::new(&logs, 1..3, batch, 100)
    }

    #[test]
    fn a_request_is_whole_and_says_its_length() {
        for batch in [1, 3] {
            let requests = requests(batch);
            assert_eq!((requests.log_of(5), requests.log_of(6)), (2, 1));
            let mut scratch = Vec::new();
            let bytes = requests.bytes(5, &mut scratch).to_vec();
            let mut headers = [httparse::EMPTY_HEADER; 8];
            let mut parsed = httparse::Request::new(&mut headers);
            let head = parsed.parse(&bytes).unwrap().unwrap();
            assert_eq!(parsed.path, Some("/v1/tenants/b/events"));
            let length = parsed.headers.iter().find(|header| header.name == "Content-Length").unwrap().value;
            assert_eq!(std::str::from_utf8(length).unwrap().trim().parse(), Ok(bytes.len() - head));
            let body = std::str::from_utf8(&bytes[head..]).unwrap();
            let ids: Vec<bool> = (0..batch as u64)
                .map(|event| body.contains(&event::id(100 + 5 * batch as u64 + event)))
                .collect();
            assert_eq!(ids, vec![true; batch]);
        }
    }

    #[test]
    fn what_is_made_ahead_is_what_is_made_later() {
        let mut ahead = requests(2);
        let later = requests(2);
        ahead.make_ahead(4, 1 << 20);
        assert_eq!(ahead.ahead(), 4);
        for number in 0..6 {
            let (mut one, mut two) = (Vec::new(), Vec::new());
            assert_eq!(ahead.bytes(number, &mut one), later.bytes(number, &mut two), "{number}");
        }
        let mut large = requests(1000);
        large.make_ahead(1000, 1 << 20);
        assert_eq!(large.ahead(), 2);
    }
}
