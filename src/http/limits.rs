//! What the door holds at once, and how long it waits. `varve.toml` sets these; the defaults stand here.

use std::time::Duration;

/// Bounds of the HTTP door.
#[derive(Clone, Debug)]
pub struct HttpLimits {
    /// Connections open at once. At 3/4 of it idle ones are closed after a second; at it nobody is accepted until
    /// one ends. 4,096 take about 80 MiB: a buffer of 8 to 16 KiB each and the state of a request.
    pub max_connections: usize,
    /// Requests under way at once; one more is `busy`.
    pub max_in_flight_requests: usize,
    /// From the first byte of a request to the end of its head.
    pub header_time: Duration,
    /// From the end of the head to the end of the body.
    pub body_time: Duration,
    /// How long a connection may stay open without a request.
    pub idle_time: Duration,
    /// How long requests that are under way may take once the server was told to stop.
    pub drain_time: Duration,
    /// Bytes of request bodies in memory at once: 16 of the largest. Each event costs about eight times its text
    /// while it is parsed and sealed, but no more of them than there are cores at once.
    pub body_memory_bytes: usize,
    /// Blocking calls (query, record, proof, keys, tenants) that run at once. More wait their turn.
    pub max_blocking_calls: usize,
    /// Events that one key may append in a second, averaged over ten; 0 is no limit.
    pub rate_limit_events_per_second: u32,
}

impl Default for HttpLimits {
    fn default() -> HttpLimits {
        HttpLimits {
            max_connections: 4096,
            max_in_flight_requests: 1024,
            header_time: Duration::from_secs(10),
            body_time: Duration::from_secs(12),
            idle_time: Duration::from_secs(60),
            drain_time: Duration::from_secs(10),
            body_memory_bytes: 64 << 20,
            max_blocking_calls: 32,
            rate_limit_events_per_second: 0,
        }
    }
}
