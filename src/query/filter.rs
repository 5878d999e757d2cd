//! What a query asks for, and whether a record is it.

use std::fmt;

use crate::event::catalog::Class;
use crate::event::limits::{MAX_ACTION_CHARS, MAX_TEXT_CHARS};
use crate::event::{Body, Field, Micros, Outcome, is_class, is_id, terms, token};
use crate::store::matcher::Matcher;
use crate::store::read::short_token;
use crate::store::record::Record;

/// The members of a query as they arrive: text under the names of the HTTP interface. Those of a filter are
/// read by [`Filter::parse`], the next three by [`super::Request::parse`]; `verifiable` says how records are shown
/// and finds none.
#[derive(Clone, Default, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct QueryText {
    /// `actor.id`.
    pub actor: Option<String>,
    /// An action, or with `.*` at its end the start of one.
    pub action: Option<String>,
    /// `id` of one of the targets.
    pub target: Option<String>,
    /// `success`, `failure`, `denied` or `unknown`.
    pub outcome: Option<String>,
    /// `context.ip`.
    pub ip: Option<String>,
    /// `context.request_id`.
    pub request_id: Option<String>,
    /// `id`.
    pub id: Option<String>,
    /// Retention class.
    pub class: Option<String>,
    /// `recorded_at` from here on, RFC 3339.
    pub since: Option<String>,
    /// `recorded_at` before this, RFC 3339.
    pub until: Option<String>,
    /// `occurred_at` from here on, RFC 3339.
    pub occurred_since: Option<String>,
    /// `occurred_at` before this, RFC 3339.
    pub occurred_until: Option<String>,
    /// `desc`, newest first, or `asc`.
    pub order: Option<String>,
    /// Records of a page, 1 to 1,000; 100 if not asked.
    pub limit: Option<String>,
    /// `next` of the page before.
    pub cursor: Option<String>,
    /// Add what a client needs to check what was committed to.
    pub verifiable: bool,
}

/// A query that cannot be asked. Names the member, never its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{member}`: {why}")]
pub struct FilterError {
    /// The member concerned, by its name in the HTTP interface.
    pub member: &'static str,
    /// What is wrong with it and what would be right.
    pub why: &'static str,
}

/// An action, or the start of one.
#[derive(Clone, PartialEq, Eq)]
pub enum ActionFilter {
    /// This action.
    Exact(String),
    /// All actions that begin with this text, which ends with a dot: `authn.` for `authn.*`.
    Prefix(String),
}

/// What a record must be. Members that are `None` do not matter; the others must all hold. `Debug` names the
/// members that are set and shows no value.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// `actor.id`.
    pub actor: Option<String>,
    /// `action`.
    pub action: Option<ActionFilter>,
    /// `id` of one of the targets.
    pub target: Option<String>,
    /// `outcome`.
    pub outcome: Option<Outcome>,
    /// `context.ip`.
    pub ip: Option<String>,
    /// `context.request_id`.
    pub request_id: Option<String>,
    /// `id`.
    pub id: Option<String>,
    /// Retention class.
    pub class: Option<String>,
    /// `recorded_at` is at least this, microseconds.
    pub since: Option<u64>,
    /// `recorded_at` is below this, microseconds.
    pub until: Option<u64>,
    /// `occurred_at` (`recorded_at` where it is absent) is at least this, microseconds.
    pub occurred_since: Option<u64>,
    /// `occurred_at` (`recorded_at` where it is absent) is below this, microseconds.
    pub occurred_until: Option<u64>,
}

impl Filter {
    /// Reads the members of a filter.
    ///
    /// # Errors
    /// The first member that no record could have, and why.
    pub fn parse(text: &QueryText) -> Result<Filter, FilterError> {
        let filter = Filter {
            actor: value("actor", &text.actor)?,
            action: text.action.as_deref().map(action).transpose()?,
            target: value("target", &text.target)?,
            outcome: text.outcome.as_deref().map(outcome).transpose()?,
            ip: value("ip", &text.ip)?,
            request_id: value("request_id", &text.request_id)?,
            id: checked("id", &text.id, is_id, "not an id: use 1–128 of A–Z, a–z, 0–9 and ._:/-")?,
            class: checked("class", &text.class, is_class, "not a class: use 1–64 of a–z, 0–9 and -")?,
            since: time("since", &text.since)?,
            until: time("until", &text.until)?,
            occurred_since: time("occurred_since", &text.occurred_since)?,
            occurred_until: time("occurred_until", &text.occurred_until)?,
        };
        let backward = |from: Option<u64>, to: Option<u64>| from.zip(to).is_some_and(|(from, to)| to < from);
        if backward(filter.since, filter.until) {
            return Err(FilterError { member: "until", why: "lies before `since`; exchange them" });
        }
        if backward(filter.occurred_since, filter.occurred_until) {
            return Err(FilterError {
                member: "occurred_until",
                why: "lies before `occurred_since`; exchange them",
            });
        }
        Ok(filter)
    }

    /// Whether a record is what is asked for. An absent body (or one whose bytes are no body) matches only
    /// what the entry holds: `since`, `until`, and `class` where its code has a name of Varve's own.
    pub fn matches(&self, record: &Record) -> bool {
        let recorded_at = record.recorded_at;
        if !within(recorded_at, self.since, self.until) {
            return false;
        }
        if !self.asks_for_body() {
            return true;
        }
        match record.body() {
            Some(Ok(body)) => self.matches_body(&body, recorded_at),
            _ => {
                let entry_says = Filter {
                    since: self.since,
                    until: self.until,
                    class: self.class.clone(),
                    ..Filter::default()
                };
                let class = Class::from_code(record.class).map(Class::name);
                *self == entry_says && class == self.class.as_deref()
            }
        }
    }

    /// Whether a body that was recorded at `recorded_at` is what is asked for, `since` and `until` left aside.
    pub fn matches_body(&self, body: &Body, recorded_at: u64) -> bool {
        if self.occurred_since.is_some() || self.occurred_until.is_some() {
            let occurred_at = body.occurred_at().map_or(recorded_at, |at| at.0);
            if !within(occurred_at, self.occurred_since, self.occurred_until) {
                return false;
            }
        }
        let asked = self.terms();
        let mut missing = (1u16 << asked.len()) - 1;
        terms(&body.view(), &mut |field, value| {
            for (place, term) in asked.iter().enumerate() {
                if *term == (field, value) {
                    missing &= !(1 << place);
                }
            }
        });
        missing == 0
    }

    /// The filter as what is appended to a log is held against.
    pub fn matcher(&self, index_key: &[u8; 32]) -> Matcher {
        let mut matcher = Matcher {
            since: self.since,
            until: self.until,
            occurred_since: self.occurred_since,
            occurred_until: self.occurred_until,
            ..Matcher::default()
        };
        for (field, value) in self.terms() {
            let token = token(index_key, field, value);
            match field {
                Field::Id => matcher.id = Some(token),
                Field::RequestId => matcher.request_id = Some(token),
                _ => matcher.terms.push(short_token(&token)),
            }
        }
        matcher
    }

    /// Whether anything is asked for but `since` and `until`, which bound a range of indexes.
    pub(super) fn asks_for_body(&self) -> bool {
        self.occurred_since.is_some() || self.occurred_until.is_some() || !self.terms().is_empty()
    }

    /// The terms that a record must have, at most eight; first those that fewest records tend to have.
    pub(super) fn terms(&self) -> Vec<(Field, &[u8])> {
        let action = self.action.as_ref().map(|action| match action {
            ActionFilter::Exact(action) => (Field::Action, action.as_bytes()),
            ActionFilter::Prefix(start) => (Field::ActionPrefix, start.as_bytes()),
        });
        [
            self.id.as_ref().map(|id| (Field::Id, id.as_bytes())),
            self.request_id.as_ref().map(|id| (Field::RequestId, id.as_bytes())),
            self.target.as_ref().map(|target| (Field::Target, target.as_bytes())),
            self.actor.as_ref().map(|actor| (Field::Actor, actor.as_bytes())),
            self.ip.as_ref().map(|ip| (Field::Ip, ip.as_bytes())),
            action,
            self.class.as_ref().map(|class| (Field::Class, class.as_bytes())),
            self.outcome.map(|outcome| (Field::Outcome, outcome.as_str().as_bytes())),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// The filter as bytes, different for different filters: what a cursor is bound to.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        for (field, value) in self.terms() {
            out.push(field.code());
            out.extend_from_slice(&(value.len() as u64).to_be_bytes());
            out.extend_from_slice(value);
        }
        for time in [self.since, self.until, self.occurred_since, self.occurred_until] {
            out.push(u8::from(time.is_some()));
            out.extend_from_slice(&time.unwrap_or(0).to_be_bytes());
        }
        out
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields: Vec<Field> = self.terms().iter().map(|(field, _)| *field).collect();
        write!(
            f,
            "Filter({fields:?}, recorded {}, occurred {})",
            self.since.is_some() || self.until.is_some(),
            self.occurred_since.is_some() || self.occurred_until.is_some()
        )
    }
}

fn within(time: u64, since: Option<u64>, until: Option<u64>) -> bool {
    since.is_none_or(|since| time >= since) && until.is_none_or(|until| time < until)
}

fn value(member: &'static str, text: &Option<String>) -> Result<Option<String>, FilterError> {
    checked(
        member,
        text,
        |text| (1..=MAX_TEXT_CHARS).contains(&text.chars().count()),
        "use 1 to 2,048 characters",
    )
}

fn checked(
    member: &'static str,
    text: &Option<String>,
    is_sound: impl Fn(&str) -> bool,
    why: &'static str,
) -> Result<Option<String>, FilterError> {
    match text {
        Some(text) if !is_sound(text) => Err(FilterError { member, why }),
        text => Ok(text.clone()),
    }
}

fn action(text: &str) -> Result<ActionFilter, FilterError> {
    let (words, is_prefix) = match text.strip_suffix(".*") {
        Some(words) => (words, true),
        None => (text, false),
    };
    let is_word = |word: &str| {
        !word.is_empty() && word.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'))
    };
    if words.len() > MAX_ACTION_CHARS || !words.split('.').all(is_word) {
        let why =
            "not an action: use lower-case words joined by dots, or such a start and `.*`, as in `authn.*`";
        return Err(FilterError { member: "action", why });
    }
    Ok(if is_prefix {
        ActionFilter::Prefix(format!("{words}."))
    } else {
        ActionFilter::Exact(words.to_owned())
    })
}

fn outcome(text: &str) -> Result<Outcome, FilterError> {
    let why = "not an outcome: use success, failure, denied or unknown";
    Outcome::parse(text.as_bytes()).ok_or(FilterError { member: "outcome", why })
}

fn time(member: &'static str, text: &Option<String>) -> Result<Option<u64>, FilterError> {
    let why = "not an RFC 3339 time of 1970–9999 with at most six decimals; write it like 2024-05-01T12:00:00Z, \
               a `+` of its offset as %2B";
    text.as_deref()
        .map(|text| Micros::parse(text).map(|at| at.0).map_err(|_| FilterError { member, why }))
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(set: impl FnOnce(&mut QueryText)) -> Result<Filter, FilterError> {
        let mut text = QueryText::default();
        set(&mut text);
        Filter::parse(&text)
    }

    #[test]
    fn members_read_as_the_contract_says() {
        assert_eq!(parse(|_| ()).unwrap(), Filter::default());
        let prefix = parse(|text| text.action = Some("authn.*".into())).unwrap();
        assert!(prefix.action == Some(ActionFilter::Prefix("authn.".into())));
        let exact = parse(|text| text.action = Some("aws.kms.decrypt".into())).unwrap();
        assert!(exact.action == Some(ActionFilter::Exact("aws.kms.decrypt".into())));
        let times = parse(|text| {
            text.since = Some("1970-01-01T00:00:01Z".into());
            text.until = Some("1970-01-01T01:00:01+01:00".into());
        });
        assert_eq!(times.unwrap().until, Some(1_000_000), "an empty range may be asked for");
    }

    #[test]
    fn what_no_record_could_have_is_refused_by_name() {
        let long = "x".repeat(MAX_TEXT_CHARS + 1);
        type Place = fn(&mut QueryText) -> &mut Option<String>;
        let refused: [(&str, &str, Place); 22] = [
            ("actor", "", |text| &mut text.actor),
            ("actor", &long, |text| &mut text.actor),
            ("target", "", |text| &mut text.target),
            ("ip", "", |text| &mut text.ip),
            ("request_id", "", |text| &mut text.request_id),
            ("action", "", |text| &mut text.action),
            ("action", "*", |text| &mut text.action),
            ("action", ".*", |text| &mut text.action),
            ("action", "authn*", |text| &mut text.action),
            ("action", "authn.", |text| &mut text.action),
            ("action", "a..b", |text| &mut text.action),
            ("action", "Authn", |text| &mut text.action),
            ("action", "a.*.b", |text| &mut text.action),
            ("outcome", "Success", |text| &mut text.outcome),
            ("id", "a b", |text| &mut text.id),
            ("class", "", |text| &mut text.class),
            ("class", "Security", |text| &mut text.class),
            ("since", "yesterday", |text| &mut text.since),
            ("until", "2023-04-07", |text| &mut text.until),
            ("until", "1969-01-01T00:00:00Z", |text| &mut text.until),
            ("occurred_since", "", |text| &mut text.occurred_since),
            ("occurred_until", "2024-05-01T12:00:60Z", |text| &mut text.occurred_until),
        ];
        for (member, value, place) in refused {
            let error = parse(|text| *place(text) = Some(value.to_owned())).unwrap_err();
            assert_eq!(error.member, member, "{value:?}");
            let is_example = member == "action" || value.is_empty();
            assert!(is_example || !error.to_string().contains(value), "no value in an error");
        }
        let error = parse(|text| {
            text.since = Some("2024-05-02T00:00:00Z".into());
            text.until = Some("2024-05-01T00:00:00Z".into());
        });
        assert_eq!(error.unwrap_err().member, "until");
    }

    #[test]
    fn different_filters_have_different_bytes_and_debug_shows_no_value() {
        let filters = [
            Filter::default(),
            Filter { actor: Some("ab".into()), ..Filter::default() },
            Filter { target: Some("ab".into()), ..Filter::default() },
            Filter { actor: Some("a".into()), target: Some("b".into()), ..Filter::default() },
            Filter { action: Some(ActionFilter::Exact("a.".into())), ..Filter::default() },
            Filter { action: Some(ActionFilter::Prefix("a.".into())), ..Filter::default() },
            Filter { since: Some(0), ..Filter::default() },
            Filter { until: Some(0), ..Filter::default() },
            Filter { occurred_since: Some(0), ..Filter::default() },
        ];
        for (place, filter) in filters.iter().enumerate() {
            assert!(filters[..place].iter().all(|other| other.encode() != filter.encode()));
        }
        let secret = Filter { actor: Some("someone@example.org".into()), ..Filter::default() };
        assert!(!format!("{secret:?}").contains("someone"));
    }
}
