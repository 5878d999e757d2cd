//! What a legal hold looks for among the events that are appended, as tokens: the filter itself is sealed in the log.

use super::idtable::Token;
use super::log::IndexKeys;

/// A filter as far as an entry on its way can be held against it. Its terms are eight bytes of a keyed hash: one event
/// in 2^60 or so matches that ought not to, and is kept longer; none that ought to is missed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matcher {
    /// Short tokens that it must all have.
    pub terms: Vec<u64>,
    /// Token of the event's id.
    pub id: Option<Token>,
    /// Token of the request's id.
    pub request_id: Option<Token>,
    /// `recorded_at`, from here on.
    pub since: Option<u64>,
    /// `recorded_at`, before this.
    pub until: Option<u64>,
    /// `occurred_at`, from here on.
    pub occurred_since: Option<u64>,
    /// `occurred_at`, before this.
    pub occurred_until: Option<u64>,
}

impl Matcher {
    /// Whether an event matches that is recorded at `recorded_at`. One with nothing set matches all.
    pub fn matches(&self, keys: &IndexKeys, recorded_at: u64) -> bool {
        let within = |time: u64, since: Option<u64>, until: Option<u64>| {
            since.is_none_or(|since| time >= since) && until.is_none_or(|until| time < until)
        };
        let occurred_at = keys.occurred_at.unwrap_or(recorded_at);
        within(recorded_at, self.since, self.until)
            && within(occurred_at, self.occurred_since, self.occurred_until)
            && self.id.is_none_or(|id| id == keys.id)
            && self.request_id.is_none_or(|id| keys.request_id == Some(id))
            && self.terms.iter().all(|term| keys.terms.contains(term))
    }

    /// Whether anything that is recorded from `now` on can match.
    pub fn can_match_from(&self, now: u64) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_set_must_hold() {
        let keys =
            IndexKeys { id: [1; 16], request_id: None, terms: Box::new([5, 6]), occurred_at: Some(100) };
        assert!(Matcher::default().matches(&keys, 7));
        let matches = |matcher: Matcher| matcher.matches(&keys, 500);
        assert!(matches(Matcher {
            terms: vec![5],
            id: Some([1; 16]),
            since: Some(500),
            ..Matcher::default()
        }));
        assert!(!matches(Matcher { terms: vec![5, 7], ..Matcher::default() }));
        assert!(!matches(Matcher { id: Some([2; 16]), ..Matcher::default() }));
        assert!(!matches(Matcher { request_id: Some([2; 16]), ..Matcher::default() }));
        assert!(!matches(Matcher { until: Some(500), ..Matcher::default() }));
        assert!(!matches(Matcher { occurred_since: Some(101), ..Matcher::default() }));
        assert!(matches(Matcher { occurred_until: Some(101), ..Matcher::default() }));
        assert!(!Matcher { until: Some(500), ..Matcher::default() }.can_match_from(500));
    }
}
