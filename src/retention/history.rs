//! The policies of a log in their order, and when a body is due by them (retention.md §3).

use std::collections::BTreeMap;

use super::Refusal;
use super::months::add_months;
use super::policy::{Policy, RecordedPolicy};
use crate::event::catalog::action;

/// Own actions whose bodies are never due: what says who the log is, who signs, what was kept how long, which logs and
/// API keys were made, and that the service ran. Verification reads them.
const EXEMPT_PREFIXES: [&str; 5] =
    ["varve.log.", "varve.key.", "varve.retention.", "varve.service.", "varve.tenant."];
const EXEMPT_ACTIONS: [&str; 2] = [action::API_KEY_CREATED, action::API_KEY_REVOKED];

/// Whether the body of an entry with flag bit 0 and this action is never due.
pub fn is_exempt(action: &str) -> bool {
    EXEMPT_PREFIXES.iter().any(|prefix| action.starts_with(prefix)) || EXEMPT_ACTIONS.contains(&action)
}

/// When a body is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// By no policy that is known.
    Never,
    /// From this moment on.
    At {
        /// Microseconds since 1970.
        micros: u64,
        /// The most months that any policy asks of it.
        months: u16,
    },
}

impl Due {
    /// Whether it is due at a moment.
    pub fn is_at(self, micros: u64) -> bool {
        matches!(self, Due::At { micros: due, .. } if due <= micros)
    }
}

/// The policies of a log. Whole it keeps the newest alone; of the others when they came and what they asked of each
/// class, where that changed: 8 bytes a change of a class, 16 a policy.
#[derive(Clone, Debug, Default)]
pub struct History {
    changes: Vec<Change>,
    newest: Option<Policy>,
    classes: BTreeMap<u16, Vec<Term>>,
}

/// A policy's entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Change {
    index: u64,
    recorded_at: u64,
}

/// What a class is kept from the policy at `from` on, until the next term of the class.
#[derive(Clone, Copy, Debug)]
struct Term {
    from: u32,
    months: u16,
    /// The most of this term and all behind it.
    most: u16,
}

impl History {
    /// No policy.
    pub fn new() -> History {
        History::default()
    }

    /// Whether there is no policy. Then nothing is ever due.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Index and time of each policy's entry, ascending.
    pub fn changes(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.changes.iter().map(|change| (change.index, change.recorded_at))
    }

    /// The newest policy and the index of its entry.
    pub fn newest(&self) -> Option<(u64, &Policy)> {
        Some((self.changes.last()?.index, self.newest.as_ref()?))
    }

    /// Memory held besides the newest policy.
    pub fn memory_bytes(&self) -> usize {
        let terms: usize = self.classes.values().map(|terms| terms.len() * size_of::<Term>() + 64).sum();
        size_of::<History>() + self.changes.len() * size_of::<Change>() + terms
    }

    /// Whether a recorded policy says of the one before what that one is, and gives no code out twice.
    ///
    /// # Errors
    /// The fact that says otherwise.
    pub fn follows(&self, recorded: &RecordedPolicy) -> Result<(), Refusal> {
        let previous = match (&recorded.previous, self.newest()) {
            (None, None) => return Ok(()),
            (Some(_), None) => return Err(Refusal::new("/previous", "no policy is before it")),
            (None, Some((index, _))) => {
                return Err(Refusal::new(
                    "/previous",
                    format!("the policy before is at {index}, and it names none"),
                ));
            }
            (Some(previous), Some(newest)) => (previous, newest),
        };
        let (said, (index, policy)) = previous;
        if said.index != index {
            return Err(Refusal::new(
                "/previous",
                format!("the policy before is at {index}, not at {}", said.index),
            ));
        }
        if said.policy.classes() != policy.classes() {
            return Err(Refusal::new("/previous_classes", "the policy before says otherwise"));
        }
        if said.policy.rules() != policy.rules() {
            return Err(Refusal::new("/previous_rules", "the policy before says otherwise"));
        }
        if !recorded.policy.keeps_names_of(policy) {
            return Err(Refusal::new(
                "/classes",
                "a class of the policy before is absent, or its code has another name",
            ));
        }
        Ok(())
    }

    /// Adds the policy of a later entry. A class that it lacks, which it must not, keeps what it had.
    ///
    /// # Panics
    /// If the entry does not lie behind the one before.
    pub fn push(&mut self, index: u64, recorded_at: u64, policy: Policy) {
        assert!(self.changes.last().is_none_or(|last| last.index < index), "policies come in their order");
        let Ok(from) = u32::try_from(self.changes.len()) else { return };
        for term in policy.classes() {
            let terms = self.classes.entry(term.code).or_default();
            if terms.last().is_some_and(|last| last.months == term.months) {
                continue;
            }
            // What is asked at most falls from term to term, so those that fall short are the last ones.
            let short = terms.iter_mut().rev().take_while(|before| before.most < term.months);
            short.for_each(|before| before.most = term.months);
            terms.push(Term { from, months: term.months, most: term.months });
        }
        self.changes.push(Change { index, recorded_at });
        self.newest = Some(policy);
    }

    /// The most months that any policy asks of an entry of the class at `index`: of the one in force there and of each
    /// up to the entry `upto`. `None`: none names the class. A binary search where `upto` is behind all policies.
    pub fn months(&self, class_code: u16, index: u64, upto: u64) -> Option<u16> {
        // In force at an entry is the newest policy below it; where there is none the first one binds it.
        let from = self.changes.partition_point(|change| change.index < index).saturating_sub(1);
        let end = self.changes.partition_point(|change| change.index <= upto);
        let terms = self.classes.get(&class_code)?;
        // The term at `from`, or the first that there is.
        let first = terms.partition_point(|term| term.from as usize <= from).saturating_sub(1);
        if from >= end || terms[first].from as usize >= end {
            return None;
        }
        if end == self.changes.len() {
            return Some(terms[first].most);
        }
        terms[first..].iter().take_while(|term| (term.from as usize) < end).map(|term| term.months).max()
    }

    /// When the body of the entry at `index` is due, by the policies up to the entry `upto`, which is the newest one
    /// recorded before the moment that is asked about. `is_exempt_own`: flag bit 0 is set and [`is_exempt`].
    pub fn due_at(
        &self,
        class_code: u16,
        is_exempt_own: bool,
        index: u64,
        recorded_at: u64,
        upto: u64,
    ) -> Due {
        let months = if is_exempt_own { None } else { self.months(class_code, index, upto) };
        let due =
            months.and_then(|months| Some(Due::At { micros: add_months(recorded_at, months)?, months }));
        due.unwrap_or(Due::Never)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retention::{PolicyChange, Previous};
    use proptest::prelude::*;

    const DAY: u64 = 86_400_000_000;

    fn with(months: u16, before: Option<&Policy>) -> Policy {
        let json = format!(r#"{{"classes":{{"security":{{"months":{months}}}}}}}"#);
        PolicyChange::parse(json.as_bytes()).unwrap().apply(before, 0).unwrap()
    }

    fn history(policies: &[(u64, u16)]) -> History {
        let mut history = History::new();
        for (index, months) in policies {
            history.push(*index, index * DAY, with(*months, None));
        }
        history
    }

    #[test]
    fn without_a_policy_nothing_is_due() {
        let due = |history: &History, class, exempt| history.due_at(class, exempt, 3, 0, 1_000);
        assert_eq!(due(&History::new(), 1, false), Due::Never);
        let one = history(&[(10, 1)]);
        let at = Due::At { micros: 31 * DAY, months: 1 };
        assert_eq!(due(&one, 1, false), at);
        assert!(at.is_at(31 * DAY) && !at.is_at(31 * DAY - 1) && !Due::Never.is_at(u64::MAX));
        assert_eq!(due(&one, 1, true), Due::Never);
        assert_eq!(due(&one, 0, false), Due::Never);
        assert_eq!(due(&one, 256, false), Due::Never);
        // Before the first policy is there, nothing is due either.
        assert_eq!(one.due_at(1, false, 3, 0, 9), Due::Never);
        assert_eq!(one.due_at(1, false, 3, 0, 10), at);
        assert_eq!(one.due_at(1, false, 3, u64::MAX, 10), Due::Never);
    }

    #[test]
    fn a_policy_that_shortens_binds_later_entries_and_one_that_lengthens_all() {
        let shorter = history(&[(10, 12), (20, 3)]);
        for (index, months) in [(0, 12), (10, 12), (19, 12), (20, 12), (21, 3), (500, 3)] {
            assert_eq!(shorter.months(1, index, 1_000), Some(months), "{index}");
        }
        let longer = history(&[(10, 3), (20, 12)]);
        for index in [0, 10, 15, 20, 21] {
            assert_eq!(longer.months(1, index, 1_000), Some(12), "{index}");
        }
        // Up to the entry before it, it was not known.
        assert_eq!((longer.months(1, 15, 19), longer.months(1, 15, 20)), (Some(3), Some(12)));
    }

    #[test]
    fn a_class_that_came_later_is_bound_from_where_it_came() {
        let mut history = history(&[(10, 12)]);
        let change =
            |json: &[u8], before: &Policy| PolicyChange::parse(json).unwrap().apply(Some(before), 0).unwrap();
        let named = change(br#"{"classes":{"billing":{"months":5}}}"#, &Policy::default());
        history.push(20, 0, named.clone());
        history.push(30, 0, change(br#"{"classes":{"billing":{"months":2}}}"#, &named));
        let months = |index, upto| history.months(256, index, upto);
        assert_eq!((months(5, 19), months(5, 20), months(5, 30)), (None, Some(5), Some(5)));
        assert_eq!((months(21, 25), months(30, 100), months(31, 100)), (Some(5), Some(5), Some(2)));
        assert_eq!(history.months(257, 31, 100), None);
    }

    #[test]
    fn a_policy_must_follow_the_one_before() {
        let mut history = History::new();
        let (first, second) = (with(12, None), with(3, None));
        let recorded = |previous: Option<(u64, &Policy)>| RecordedPolicy {
            policy: second.clone(),
            previous: previous.map(|(index, policy)| Previous { index, policy: policy.clone() }),
        };
        let fault = |history: &History, recorded: &RecordedPolicy| {
            history.follows(recorded).map_err(|fault| fault.pointer)
        };
        assert_eq!(fault(&history, &recorded(None)), Ok(()));
        assert_eq!(fault(&history, &recorded(Some((4, &first)))), Err("/previous".to_owned()));
        history.push(4, 40, first.clone());
        assert_eq!(fault(&history, &recorded(Some((4, &first)))), Ok(()));
        assert_eq!(fault(&history, &recorded(None)), Err("/previous".to_owned()));
        assert_eq!(fault(&history, &recorded(Some((3, &first)))), Err("/previous".to_owned()));
        assert_eq!(fault(&history, &recorded(Some((4, &second)))), Err("/previous_classes".to_owned()));
        let own = |json: &[u8]| PolicyChange::parse(json).unwrap().apply(None, 0).unwrap();
        let named = own(br#"{"classes":{"a":{"months":1}}}"#);
        history.push(5, 50, named.clone());
        assert_eq!(fault(&history, &recorded(Some((5, &named)))), Err("/classes".to_owned()));
        let renamed = RecordedPolicy {
            policy: own(br#"{"classes":{"b":{"months":1}}}"#),
            previous: Some(Previous { index: 5, policy: named }),
        };
        assert_eq!(fault(&history, &renamed), Err("/classes".to_owned()));
        assert_eq!(history.changes().collect::<Vec<_>>(), [(4, 40), (5, 50)]);
        assert_eq!(history.newest().unwrap().0, 5);
    }

    #[test]
    fn what_verification_reads_is_exempt() {
        for exempt in [
            "varve.log.heartbeat",
            "varve.key.rotated",
            "varve.retention.expired",
            "varve.tenant.created",
            "varve.service.stopped",
            "varve.api_key.created",
            "varve.api_key.revoked",
        ] {
            assert!(is_exempt(exempt), "{exempt}");
        }
        for due in
            ["varve.access.read", "varve.api_key.refused", "varve.grant.used", "varve.logs.x", "varve.log"]
        {
            assert!(!is_exempt(due), "{due}");
        }
    }

    proptest! {
        /// Against the sentence of §3, word by word.
        #[test]
        fn the_most_months_are_those_of_the_policies_in_force(
            gaps in prop::collection::vec((1_u64..5, 1_u16..40), 1..30), index in 0_u64..120, upto in 0_u64..120,
        ) {
            let mut at = 0;
            let policies: Vec<(u64, u16)> = gaps.iter().map(|(gap, months)| { at += gap; (at, *months) }).collect();
            let history = history(&policies);
            let in_force = policies.iter().rfind(|(policy, _)| *policy < index);
            let later = policies.iter().filter(|(policy, _)| (index..=upto).contains(policy));
            let expected = in_force.filter(|(policy, _)| *policy <= upto).into_iter().chain(later).map(|(_, months)| *months).max();
            prop_assert_eq!(history.months(1, index, upto), expected);
        }
    }
}
