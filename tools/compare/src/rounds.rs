//! Rounds: each side inserts the same events, one side after the other, again and again, so that an hour that is
//! good for one is good for all.

use std::time::Duration;

use serde_json::{Value, json};
use varve_loadgen::report::{grouped, rounded};
use varve_loadgen::spent::Spent;
use varve_loadgen::tally::Latencies;

/// The sides, in their order within a round.
pub(crate) const SIDES: [&str; 3] = ["varve", "postgresql plain", "postgresql chain"];

/// One kind of load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    /// Events of a request or transaction.
    pub(crate) batch: usize,
    pub(crate) connections: usize,
    pub(crate) tenants: usize,
    /// Requests of a round.
    pub(crate) requests: u64,
}

/// What one side did in one round.
pub(crate) struct Outcome {
    pub(crate) events: u64,
    pub(crate) elapsed: Duration,
    pub(crate) latencies: Latencies,
    /// Processor time to the end of the round; what a server does later is not in it.
    pub(crate) spent: Spent,
}

impl Outcome {
    #[expect(clippy::cast_precision_loss, reason = "counts of a run fit")]
    pub(crate) fn rate(&self) -> f64 {
        self.events as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// Cores that other processes kept busy meanwhile.
    fn noise(&self) -> Option<f64> {
        self.spent.others_cores(self.elapsed)
    }
}

/// All measured rounds of a workload; each has an outcome for each of [`SIDES`].
#[derive(Default)]
pub(crate) struct Rounds(pub(crate) Vec<[Outcome; 3]>);

impl Rounds {
    /// For people.
    pub(crate) fn lines(&self, workload: &Workload) -> Vec<String> {
        let Workload { name, batch, connections, tenants, requests } = workload;
        let events = grouped(requests * *batch as u64);
        let rounds = self.0.len();
        let mut lines = vec![format!(
            "{name}: {connections} connections × {batch}, {tenants} tenants, {rounds} rounds of {events} events each"
        )];
        for (side, name) in SIDES.iter().enumerate() {
            let [least, middle, most] = spread(self.rates(side)).map(|rate| grouped(rounded(rate)));
            lines.push(format!(
                "  {name:<17} events/s {middle:>7} ({least} to {most}); server {:.1} µs an event; {}",
                self.cpu_us(side),
                self.latencies(side)
            ));
        }
        for (other, name) in SIDES.iter().enumerate().skip(1) {
            let [least, middle, most] = spread(self.ratios(other));
            lines.push(format!("  varve / {name}: {middle:.2} ({least:.2} to {most:.2})"));
        }
        for round in &self.0 {
            let each = round.each_ref().map(|outcome| {
                let noise = outcome.noise().map_or("?".to_owned(), |cores| format!("{cores:.2}"));
                format!("{} ({noise})", grouped(rounded(outcome.rate())))
            });
            lines.push(format!("    {}", each.join("  ")));
        }
        lines.push("    each round, and in brackets the cores that others kept busy meanwhile".to_owned());
        lines
    }

    /// For programs.
    pub(crate) fn json(&self, workload: &Workload) -> Value {
        let sides = (0..SIDES.len()).map(|side| {
            let [least, middle, most] = spread(self.rates(side)).map(rounded);
            json!({"side": SIDES[side], "events_per_second": {"min": least, "median": middle, "max": most},
                "server_cpu_us_per_event": self.cpu_us(side), "latency_ms": self.latencies(side).json()})
        });
        let ratios = (1..SIDES.len()).map(|other| {
            let [least, middle, most] = spread(self.ratios(other));
            json!({"varve_to": SIDES[other], "min": least, "median": middle, "max": most})
        });
        json!({"workload": workload.name, "batch": workload.batch, "connections": workload.connections,
            "tenants": workload.tenants, "rounds": self.0.iter().map(each_side).collect::<Vec<_>>(), "events_per_round": workload.requests * workload.batch as u64,
            "sides": sides.collect::<Vec<_>>(), "ratios": ratios.collect::<Vec<_>>()})
    }

    fn rates(&self, side: usize) -> Vec<f64> {
        self.0.iter().map(|round| round[side].rate()).collect()
    }

    /// Processor time of an event over all rounds, microseconds.
    #[expect(clippy::cast_precision_loss, reason = "counts of a run fit")]
    fn cpu_us(&self, side: usize) -> f64 {
        let cpu: Duration = self.0.iter().filter_map(|round| round[side].spent.server).sum();
        let events: u64 = self.0.iter().map(|round| round[side].events).sum();
        cpu.as_secs_f64() * 1e6 / events.max(1) as f64
    }

    /// Varve's rate to another's, in the same round.
    fn ratios(&self, other: usize) -> Vec<f64> {
        self.0.iter().map(|round| round[0].rate() / round[other].rate()).collect()
    }

    fn latencies(&self, side: usize) -> Latencies {
        let mut all = Latencies::default();
        self.0.iter().for_each(|round| all.add(&round[side].latencies));
        all
    }
}

fn each_side(round: &[Outcome; 3]) -> Value {
    let sides = round.each_ref();
    json!({"events_per_second": sides.map(|side| rounded(side.rate())), "cores_used_by_others": sides.map(Outcome::noise)})
}

/// Least, median and most; zeros where there is nothing.
fn spread(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    let (Some(&least), Some(&most)) = (values.first(), values.last()) else { return [0.0; 3] };
    let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
    [least, f64::midpoint(low, high), most]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_taken_within_its_round() {
        let outcome = |events: u64| Outcome {
            events,
            elapsed: Duration::from_secs(1),
            latencies: Latencies::default(),
            spent: Spent { server: Some(Duration::from_micros(events * 30)), own: None, machine: None },
        };
        // A round that is twice as fast for all leaves the ratio as it is.
        let rounds =
            Rounds(vec![[outcome(100), outcome(50), outcome(25)], [outcome(200), outcome(100), outcome(50)]]);
        assert_eq!(spread(rounds.ratios(1)), [2.0, 2.0, 2.0]);
        assert_eq!(spread(rounds.ratios(2)), [4.0, 4.0, 4.0]);
        assert_eq!(spread(rounds.rates(0)), [100.0, 150.0, 200.0]);
        assert!((rounds.cpu_us(1) - 30.0).abs() < 1e-9);
    }

    #[test]
    fn the_middle_is_the_median() {
        assert_eq!(spread(vec![]), [0.0; 3]);
        assert_eq!(spread(vec![3.0, 1.0, 2.0]), [1.0, 2.0, 3.0]);
        assert_eq!(spread(vec![4.0, 1.0, 2.0, 3.0]), [1.0, 2.5, 4.0]);
    }
}
