//! An event on its way: JSON text that has its id before it is sent for the first time.
//!
//! The id is what makes a repeat harmless, so nothing is sent without one. Where an event comes without, a UUIDv7 is
//! put in front; no other byte changes, so that numbers and doubled names reach the server's strict parser as they were
//! written. Whether it is an event is the server's to say; here it is one JSON object of at most 64 KiB.

#![expect(
    clippy::disallowed_methods,
    reason = "an event gets its id before it is first sent, so that a repeat is known"
)]

use std::fmt;
use std::sync::Arc;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::event::limits::MAX_EVENT_BYTES;
use crate::event::{Event, InvalidEvent};

/// An event that can be sent, and sent again.
#[derive(Clone, PartialEq, Eq)]
pub struct NewEvent {
    json: Arc<str>,
    id: Option<Arc<str>>,
    was_named: bool,
}

/// Why text cannot be sent as an event. It would spoil the batch around it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotAnEvent {
    /// Another JSON value.
    #[error("an event is a JSON object")]
    NotAnObject,
    /// No JSON.
    #[error("this is not JSON, column {column}")]
    NotJson {
        /// Where it ends to be, from 1; 0 where it cannot be told.
        column: usize,
    },
    /// Over 64 KiB with its id.
    #[error("the event is over 64 KiB")]
    TooLarge,
}

/// The members that this client looks at.
#[derive(Deserialize)]
struct Peek<'a> {
    #[serde(default, borrow)]
    id: Option<&'a serde_json::value::RawValue>,
    #[serde(default)]
    producer: Option<IgnoredAny>,
}

impl NewEvent {
    /// Takes anything that serializes to a JSON object, such as `serde_json::json!({…})`.
    ///
    /// # Errors
    /// [`NotAnEvent`]; a value that does not serialize is no JSON.
    pub fn new<E: Serialize + ?Sized>(event: &E) -> Result<NewEvent, NotAnEvent> {
        let text = serde_json::to_string(event).map_err(|_| NotAnEvent::NotJson { column: 0 })?;
        NewEvent::from_json(&text)
    }

    /// Takes JSON text.
    ///
    /// # Errors
    /// [`NotAnEvent`].
    pub fn from_json(text: &str) -> Result<NewEvent, NotAnEvent> {
        Draft::read(text)?.finish()
    }

    /// The JSON text, with its id.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// The id; `None` where the text holds one that is no string, or two, which the server refuses.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Whether the event came without an id and got one here.
    pub fn was_named(&self) -> bool {
        self.was_named
    }

    /// Whether the server would take it: the same parser, without the server. Meant for the tests of a service.
    ///
    /// # Errors
    /// The first rule found broken, and where.
    pub fn check(&self) -> Result<(), InvalidEvent> {
        Event::parse(self.json.as_bytes()).map(drop)
    }

    /// An event that was made before, as it was sent or spooled.
    pub(super) fn again(json: Arc<str>) -> NewEvent {
        let peek = serde_json::from_str::<Peek<'_>>(&json).ok();
        let id = peek.and_then(|peek| serde_json::from_str::<String>(peek.id?.get()).ok());
        NewEvent { id: id.map(Arc::from), json, was_named: false }
    }

    pub(super) fn shared_json(&self) -> Arc<str> {
        Arc::clone(&self.json)
    }
}

impl fmt::Debug for NewEvent {
    /// The id only: the rest may be personal data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewEvent").field("id", &self.id).finish_non_exhaustive()
    }
}

/// An event before its members are put in front.
pub(super) struct Draft<'a> {
    text: &'a str,
    /// An id to put in; `None` where there is one.
    new_id: Option<String>,
    own_id: Option<Arc<str>>,
    has_producer: bool,
}

impl<'a> Draft<'a> {
    pub(super) fn read(text: &'a str) -> Result<Draft<'a>, NotAnEvent> {
        let text = text.trim();
        let peek = match serde_json::from_str::<Peek<'_>>(text) {
            Ok(peek) if text.starts_with('{') => peek,
            Ok(_) => return Err(NotAnEvent::NotAnObject),
            // A doubled name is the only breach here that is still one JSON value; the server names it.
            Err(error)
                if error.is_data()
                    && text.starts_with('{')
                    && serde_json::from_str::<IgnoredAny>(text).is_ok() =>
            {
                return Ok(Draft { text, new_id: None, own_id: None, has_producer: true });
            }
            Err(error) if error.is_data() => return Err(NotAnEvent::NotAnObject),
            Err(error) => return Err(NotAnEvent::NotJson { column: error.column() }),
        };
        // `"id":null` also reads as absent; the server refuses the doubled name, which is what it deserves.
        let new_id = peek.id.is_none().then(new_id);
        let own_id = peek.id.and_then(|raw| serde_json::from_str::<String>(raw.get()).ok()).map(Arc::from);
        Ok(Draft { text, new_id, own_id, has_producer: peek.producer.is_some() })
    }

    pub(super) fn has_producer(&self) -> bool {
        self.has_producer
    }

    /// The event as it is sent, with what was put in front.
    pub(super) fn finish(&self) -> Result<NewEvent, NotAnEvent> {
        self.finish_with("")
    }

    /// The same, with `members` (`"name":value`, or nothing) in front.
    pub(super) fn finish_with(&self, members: &str) -> Result<NewEvent, NotAnEvent> {
        let was_named = self.new_id.is_some();
        let id_member = self.new_id.as_ref().map(|id| format!("\"id\":\"{id}\"")).unwrap_or_default();
        let json: Arc<str> = match (was_named, members.is_empty()) {
            (false, true) => self.text.into(),
            _ => {
                let rest = self.text[1..].trim_start();
                let between = if was_named && !members.is_empty() { "," } else { "" };
                let after = if rest.starts_with('}') { "" } else { "," };
                format!("{{{id_member}{between}{members}{after}{rest}").into()
            }
        };
        if json.len() > MAX_EVENT_BYTES {
            return Err(NotAnEvent::TooLarge);
        }
        let id = self.new_id.as_deref().map(Arc::from).or_else(|| self.own_id.clone());
        Ok(NewEvent { json, id, was_named })
    }
}

fn new_id() -> String {
    new_uuid().to_string()
}

/// A fresh UUIDv7.
pub(super) fn new_uuid() -> Uuid {
    Uuid::now_v7()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(text: &str) -> String {
        NewEvent::from_json(text).unwrap().json().to_owned()
    }

    #[test]
    fn an_id_is_put_in_front_and_nothing_else_changes() {
        let event = NewEvent::from_json("{ \"n\": 1.00, \"s\":\"\\u0041\"}").unwrap();
        assert!(event.was_named());
        let id = event.id().unwrap();
        assert_eq!(event.json(), format!("{{\"id\":\"{id}\",\"n\": 1.00, \"s\":\"\\u0041\"}}"));
        assert_eq!(Uuid::parse_str(id).unwrap().get_version_num(), 7);
        assert!(sent("{}").ends_with("\"}"));
        assert_ne!(sent("{}"), sent("{}"));
        let made = NewEvent::new(&serde_json::json!({"action": "a.b", "outcome": "success"})).unwrap();
        assert_eq!(made.check(), Ok(()));
    }

    #[test]
    fn an_event_with_an_id_is_left_alone() {
        for (text, id) in [
            ("{\"id\":\"a\"}", Some("a")),
            ("{\"action\":\"x\",\"\\u0069d\":\"a\\u002fb\"}", Some("a/b")),
            ("{\"id\":7}", None),
            ("{\"id\":\"a\",\"id\":\"b\"}", None),
        ] {
            let event = NewEvent::from_json(text).unwrap();
            assert_eq!((event.json(), event.id(), event.was_named()), (text, id, false));
        }
    }

    #[test]
    fn what_is_no_object_never_joins_a_batch() {
        for bad in ["", "{", "{\"a\":1", "7", "null", "[]", "[1]", "\"x\"", "{} {}", "{},{}", "{\"a\":1}]"] {
            assert!(NewEvent::from_json(bad).is_err(), "{bad}");
        }
        assert_eq!(NewEvent::from_json("[1,2]"), Err(NotAnEvent::NotAnObject));
        assert_eq!(NewEvent::from_json("{\"a\""), Err(NotAnEvent::NotJson { column: 4 }));
        let over = format!("{{\"id\":\"a\",\"s\":\"{}\"}}", "x".repeat(MAX_EVENT_BYTES));
        assert_eq!(NewEvent::from_json(&over), Err(NotAnEvent::TooLarge));
    }

    #[test]
    fn members_go_in_front_with_or_without_an_id() {
        let with = |text: &str| Draft::read(text).unwrap().finish_with("\"m\":1").unwrap();
        assert_eq!(with("{\"id\":\"a\"}").json(), "{\"m\":1,\"id\":\"a\"}");
        let named = with("{ }");
        assert_eq!(named.json(), format!("{{\"id\":\"{}\",\"m\":1}}", named.id().unwrap()));
        assert!(with("{\"x\":{}}").json().ends_with(",\"m\":1,\"x\":{}}"));
        assert!(Draft::read("{\"producer\":{}}").unwrap().has_producer());
        // A doubled name: who knows which member was doubled. It goes as it is.
        assert!(Draft::read("{\"id\":\"a\",\"id\":\"b\"}").unwrap().has_producer());
    }

    #[test]
    fn debug_shows_no_value() {
        let event = NewEvent::from_json("{\"id\":\"a\",\"reason\":\"secret\"}").unwrap();
        assert_eq!(format!("{event:?}"), "NewEvent { id: Some(\"a\"), .. }");
    }
}
