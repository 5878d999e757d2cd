//! An honest client beside a load: single events at a gentle rate, on a thread of its own, second by second.

use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::drive::{Done, Length, Load, Rate, drive};
use crate::request::Requests;
use crate::{Fault, on_this_thread};

/// Its events a second.
pub(crate) const RATE: f64 = 100.0;

/// Its connections: it stays on time while each answer takes less than 2.5 s.
const CONNECTIONS: usize = 256;

/// How long after its time it may send what was due before: a server that stalls makes it late.
const LATE: Duration = Duration::from_secs(20);

pub(crate) type Probe = JoinHandle<Result<(Requests, Done), Fault>>;

/// Starts it; it ends by itself after `time`.
pub(crate) fn start(address: SocketAddr, mut requests: Requests, time: Duration) -> Probe {
    std::thread::spawn(move || {
        requests.make_ahead(crate::report::rounded(RATE * time.as_secs_f64()) + 1, 64 << 20);
        let length = Length::Time { warmup: Duration::ZERO, window: time, late: LATE };
        let load =
            Load { rate: Rate::EventsPerSecond(RATE), connections: CONNECTIONS, length, with_timeline: true };
        on_this_thread(drive(address, requests, load))
    })
}

/// Waits for its end.
pub(crate) fn join(probe: Probe) -> Result<(Requests, Done), Fault> {
    probe.join().map_err(|_| Fault::unable("the honest client panicked: a defect of this tool"))?
}
