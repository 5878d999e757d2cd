//! Metrics of the HTTP door: answers by route template, refusals by code, connections, blocking calls.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tokio::sync::Semaphore;

use super::{Counters, counter, register};

/// Route templates that are told apart; what comes after them is `other`. The contract has about 40 routes.
///
/// Series at most: (64 + 1) routes × 6 methods × 5 classes of status = 1,950 counters, and 65 × 6 histograms of 14 + 3
/// lines, 6,630. The 12 templates of today, each with its one or two methods, make 16 histograms.
pub const MAX_ROUTES: usize = 64;

/// Seconds of an answer: three a decade from 1 ms to 30 s. The longest is a body that takes its 15 s, 5 s of waiting
/// for a place, and a query of 10 s. 14 buckets.
const ANSWER_SECONDS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// The label of a path that no route has, and of routes beyond [`MAX_ROUTES`].
const OTHER: &str = "other";

/// Methods that are told apart.
const METHODS: [&str; 5] = ["GET", "POST", "PUT", "DELETE", "HEAD"];

/// What the HTTP door counts. Handles for the server are cheap: an atomic each.
#[derive(Debug)]
pub struct Http {
    answers: Family<Answer, Counter>,
    durations: Family<Asked, Histogram, Seconds>,
    refusals: Counters,
    connections: Gauge,
    connections_refused: Counter,
    blocking: Gauge,
    blocking_limit: Gauge,
    /// Templates seen so far. Written by the first answer of a route, read by every other.
    routes: RwLock<HashSet<Arc<str>>>,
    /// Held by the one scrape that is worked on; others wait without a thread.
    scrapes: Arc<Semaphore>,
}

impl Http {
    pub(super) fn new(registry: &mut Registry) -> Http {
        Http {
            answers: register(
                registry,
                "varve_http_answers",
                "Answers by route template, method and class of status",
                Family::default(),
            ),
            durations: register(
                registry,
                "varve_http_answer_duration_seconds",
                "Time from the head of a request until its answer is ready, by route template and method",
                Family::new_with_constructor(Seconds),
            ),
            refusals: register(
                registry,
                "varve_http_refusals",
                "Answers that are a problem, by its code",
                Counters::default(),
            ),
            connections: register(
                registry,
                "varve_http_connections",
                "Connections that are open",
                Gauge::default(),
            ),
            connections_refused: counter(
                registry,
                "varve_http_connections_refused",
                "Connections that were closed at once because of a limit",
            ),
            blocking: register(
                registry,
                "varve_http_blocking_calls",
                "Places for blocking calls that are taken",
                Gauge::default(),
            ),
            blocking_limit: register(
                registry,
                "varve_http_blocking_limit_calls",
                "Places for blocking calls",
                Gauge::default(),
            ),
            routes: RwLock::default(),
            scrapes: Arc::new(Semaphore::new(1)),
        }
    }

    /// Makes the codes of refusals known, so that each is there from the first scrape on.
    pub fn know_codes(&self, codes: impl IntoIterator<Item = &'static str>) {
        codes.into_iter().for_each(|code| drop(self.refusals.get_or_create(&[("code", code)])));
    }

    /// A request was answered. `route` is the template that matched, never the path.
    pub fn answered(
        &self,
        route: Option<&str>,
        method: &str,
        status: u16,
        code: Option<&'static str>,
        took: Duration,
    ) {
        let route = self.route(route);
        let method = method_word(method);
        self.durations.get_or_create(&Asked { route: route.clone(), method }).observe(took.as_secs_f64());
        self.answers.get_or_create(&Answer { route, method, class: class_of(status) }).inc();
        if let Some(code) = code {
            self.refusals.get_or_create(&[("code", code)]).inc();
        }
    }

    /// A connection was accepted. It counts as open until the guard goes.
    #[must_use]
    pub fn connection(&self) -> Connection {
        self.connections.inc();
        Connection(self.connections.clone())
    }

    /// A connection was turned away because of a limit.
    pub fn connection_refused(&self) {
        self.connections_refused.inc();
    }

    /// `taken` of `limit` places for blocking calls are taken.
    pub fn set_blocking(&self, taken: usize, limit: usize) {
        self.blocking.set(i64::try_from(taken).unwrap_or(i64::MAX));
        self.blocking_limit.set(i64::try_from(limit).unwrap_or(i64::MAX));
    }

    /// The place for the one scrape that is worked on.
    pub fn scrapes(&self) -> Arc<Semaphore> {
        Arc::clone(&self.scrapes)
    }

    /// The label of a route template.
    fn route(&self, template: Option<&str>) -> Arc<str> {
        let template = template.unwrap_or(OTHER);
        if let Some(known) = self.routes.read().get(template) {
            return Arc::clone(known);
        }
        let mut routes = self.routes.write();
        if let Some(known) = routes.get(template) {
            return Arc::clone(known);
        }
        // `other` has its place beside the templates.
        let new: Arc<str> = if routes.len() < MAX_ROUTES { template.into() } else { OTHER.into() };
        routes.insert(Arc::clone(&new));
        new
    }
}

/// An open connection.
pub struct Connection(Gauge);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A method as labels and the log name it: any other than the five is `other`, for a client may send any word.
pub fn method_word(method: &str) -> &'static str {
    METHODS.into_iter().find(|known| *known == method).unwrap_or(OTHER)
}

fn class_of(status: u16) -> &'static str {
    match status / 100 {
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        5 => "5xx",
        _ => OTHER,
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Asked {
    route: Arc<str>,
    method: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Answer {
    route: Arc<str>,
    method: &'static str,
    class: &'static str,
}

impl EncodeLabelSet for Asked {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> fmt::Result {
        [("route", &*self.route), ("method", self.method)].encode(encoder)
    }
}

impl EncodeLabelSet for Answer {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> fmt::Result {
        [("route", &*self.route), ("method", self.method), ("class", self.class)].encode(encoder)
    }
}

#[derive(Clone, Debug)]
struct Seconds;

impl MetricConstructor<Histogram> for Seconds {
    fn new_metric(&self) -> Histogram {
        Histogram::new(ANSWER_SECONDS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{Reading, Telemetry};

    #[test]
    fn routes_beyond_the_bound_and_odd_methods_are_other() {
        let telemetry = Telemetry::new();
        let http = telemetry.http();
        for number in 0..MAX_ROUTES + 50 {
            http.answered(Some(&format!("/r/{number}")), "GET", 200, None, Duration::ZERO);
        }
        http.answered(None, "BREW", 418, Some("bad_request"), Duration::ZERO);
        let text = telemetry.scrape(Reading::default);
        let series = |start: &str| text.lines().filter(|line| line.starts_with(start)).count();
        assert_eq!(series("varve_http_answers_total{"), MAX_ROUTES + 2, "{text}");
        assert!(text.contains("varve_http_answers_total{route=\"other\",method=\"GET\",class=\"2xx\"} 50\n"));
        assert!(
            text.contains("{route=\"other\",method=\"other\",class=\"4xx\"} 1\n") && !text.contains("BREW")
        );
        assert!(text.contains("varve_http_refusals_total{code=\"bad_request\"} 1\n"));
        assert!(ANSWER_SECONDS.is_sorted());
    }

    #[test]
    fn a_connection_counts_while_its_guard_lives() {
        let telemetry = Telemetry::new();
        let open = [telemetry.http().connection(), telemetry.http().connection()];
        telemetry.http().connection_refused();
        let text = telemetry.scrape(Reading::default);
        assert!(text.contains("\nvarve_http_connections 2\n"), "{text}");
        assert!(text.contains("\nvarve_http_connections_refused_total 1\n"));
        drop(open);
        assert!(telemetry.scrape(Reading::default).contains("\nvarve_http_connections 0\n"));
    }
}
