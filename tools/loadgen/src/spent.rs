//! Processor time: of the server, of this tool, of everybody. On a machine that is shared a rate says little
//! without it.

use std::fs;
use std::time::Duration;

use crate::Fault;

/// Linux counts processor time for user space in hundredths of a second, whatever its own tick is.
const TICK: Duration = Duration::from_millis(10);

/// Processor time so far, or between two moments; each part `None` where it is not known.
#[derive(Clone, Copy, Debug)]
pub struct Spent {
    /// Of the server and its children.
    pub server: Option<Duration>,
    /// Of this tool.
    pub own: Option<Duration>,
    /// Of everybody.
    pub machine: Option<Duration>,
}

impl Spent {
    /// From when each of them began up to now.
    pub fn so_far(server: Option<u32>) -> Spent {
        Spent {
            server: server.and_then(|pid| family_cpu_time(pid).ok()),
            own: own_cpu_time().ok(),
            machine: machine_cpu_time().ok(),
        }
    }

    /// From `before` up to this moment.
    pub fn since(&self, before: &Spent) -> Spent {
        let part = |now: Option<Duration>, before: Option<Duration>| Some(now?.saturating_sub(before?));
        Spent {
            server: part(self.server, before.server),
            own: part(self.own, before.own),
            machine: part(self.machine, before.machine),
        }
    }

    /// Cores that were busy with neither of the two: the noise of a run that took `elapsed`.
    pub fn others_cores(&self, elapsed: Duration) -> Option<f64> {
        let others = self.machine?.saturating_sub(self.server?).saturating_sub(self.own?);
        Some((others.as_secs_f64() / elapsed.as_secs_f64().max(1e-3) * 100.0).round() / 100.0)
    }
}

/// Of a process and its children, those that have ended included: a server may be many.
///
/// # Errors
/// There is no such process.
fn family_cpu_time(pid: u32) -> Result<Duration, Fault> {
    let (mut ticks, mut is_there) = (0, false);
    for entry in fs::read_dir("/proc").map_err(Fault::unable)?.flatten() {
        // A process that ends meanwhile is counted among its parent's children, a little late.
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let Some(fields) = stat_fields(&stat) else { continue };
        let is_own = entry.file_name().to_str() == Some(&pid.to_string());
        is_there |= is_own;
        if is_own || fields.parent == pid {
            ticks += fields.own_ticks + fields.ended_ticks;
        }
    }
    if is_there { Ok(TICK * ticks) } else { Err(Fault::unable(format!("there is no process {pid}"))) }
}

/// Of this process alone: the server may be its child.
fn own_cpu_time() -> Result<Duration, Fault> {
    let stat = fs::read_to_string("/proc/self/stat").map_err(Fault::unable)?;
    let fields = stat_fields(&stat).ok_or_else(|| Fault::unable("/proc/self/stat cannot be read"))?;
    Ok(TICK * fields.own_ticks)
}

/// Processor time that anybody has taken from this machine so far.
///
/// # Errors
/// The kernel does not say.
fn machine_cpu_time() -> Result<Duration, Fault> {
    let stat = fs::read_to_string("/proc/stat").map_err(Fault::unable)?;
    let ticks = busy_ticks(&stat).ok_or_else(|| Fault::unable("/proc/stat cannot be read"))?;
    Ok(Duration::from_millis(ticks * 10))
}

/// All but idle and waiting in the first line of proc_stat(5): what the host takes from this machine is in it, so
/// that it shows as noise. Guests are counted in user time already.
fn busy_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().map(str::parse::<u64>);
    let mut next = || fields.next()?.ok();
    let (user, nice, system) = (next()?, next()?, next()?);
    let (_idle, _waiting) = (next()?, next()?);
    let (irq, soft_irq, stolen) = (next()?, next()?, next()?);
    Some(user + nice + system + irq + soft_irq + stolen)
}

/// What is read of proc_pid_stat(5).
struct StatFields {
    parent: u32,
    /// User and system time of the process.
    own_ticks: u32,
    /// The same of its children that have ended.
    ended_ticks: u32,
}

fn stat_fields(stat: &str) -> Option<StatFields> {
    // The name may hold anything, so it ends at the last bracket.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |nth: usize| fields.get(nth)?.parse::<u32>().ok();
    Some(StatFields {
        parent: number(1)?,
        own_ticks: number(11)? + number(12)?,
        ended_ticks: number(13)? + number(14)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_count_of_time_is_read() {
        let stat = "7 (a) b) S 5 7 7 0 -1 4194560 1 0 0 0 250 50 3 4 20 0 1 0 1 1 1";
        let fields = stat_fields(stat).unwrap();
        assert_eq!((fields.parent, fields.own_ticks, fields.ended_ticks), (5, 300, 7));
        assert!(stat_fields("7 (a) S 1").is_none());
        assert_eq!(busy_ticks("cpu  10 20 30 1000 500 1 2 4 0 0\ncpu0 1"), Some(67));
        assert!(machine_cpu_time().unwrap() > Duration::ZERO);
        let own = own_cpu_time().unwrap();
        assert!(family_cpu_time(std::process::id()).unwrap() >= own);
        assert!(family_cpu_time(u32::MAX).is_err());
    }

    #[test]
    fn noise_is_what_neither_of_the_two_used() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let before = Spent { server: seconds(10), own: seconds(1), machine: seconds(100) };
        let after = Spent { server: seconds(13), own: seconds(2), machine: seconds(109) };
        let spent = after.since(&before);
        assert_eq!(spent.server, seconds(3));
        assert_eq!(spent.others_cores(Duration::from_secs(10)), Some(0.5));
        let unknown = Spent { server: None, ..after };
        assert_eq!(unknown.since(&before).others_cores(Duration::from_secs(10)), None);
    }
}
