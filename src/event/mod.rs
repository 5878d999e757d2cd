//! What a service submits, from raw bytes to canonical, sealed form. Pure: time and randomness come
//! from the caller.
//!
//! [`Event::parse`] is the only door: after it no raw JSON exists. [`Event::seal`] turns an event into
//! a [`Body`], the bytes an entry commits to with what opens them. [`Body::check`] says whether a body
//! is one that this format can produce. The normative text is `docs/format/event.md`.
//!
//! Invariants: an [`Event`] keeps every rule of the format; its canonical form is at most 64 KiB; a
//! sealed value is never in [`Body::canonical`]; no error and no `Debug` shows a value.

use std::fmt;

mod body;
mod canonical;
pub mod catalog;
mod invalid;
mod json;
pub mod limits;
mod printable;
mod seal;
mod shape;
pub mod tenant;
pub mod term;
#[cfg(test)]
mod tests;
pub mod time;
#[cfg(test)]
mod vectors;
mod view;

pub use body::{Body, BodyFault, Examined, left_of};
pub use catalog::{Builder, Value};
pub use invalid::{InvalidEvent, InvalidKind};
pub use printable::{is_printable, printable};
pub use seal::{Commitment, Disclosure, is_sealed_path};
pub use tenant::{BadName, Instance, Origin, Tenant};
pub use term::{Field, terms, token};
pub use time::{BadTime, Micros};
pub use view::{BodyView, DisclosureView};

use canonical::Text;
use seal::{commitment, write_marker};
use shape::{Form, Layout, Member, Part, Span};

/// How what the event tells of ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It was done.
    Success,
    /// It was tried and did not work.
    Failure,
    /// It was refused.
    Denied,
    /// The producer cannot tell.
    Unknown,
}

impl Outcome {
    /// The outcome as it stands in events.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Success => "success",
            Outcome::Failure => "failure",
            Outcome::Denied => "denied",
            Outcome::Unknown => "unknown",
        }
    }

    /// Reads an outcome as it stands in events.
    pub fn parse(name: &[u8]) -> Option<Outcome> {
        match name {
            b"success" => Some(Outcome::Success),
            b"failure" => Some(Outcome::Failure),
            b"denied" => Some(Outcome::Denied),
            b"unknown" => Some(Outcome::Unknown),
            _ => None,
        }
    }
}

/// Whether `text` may be the `id` of an event: 1–128 of `[A-Za-z0-9._:/-]`.
pub fn is_id(text: &str) -> bool {
    shape::id(Text::new(text.as_bytes())).is_ok()
}

/// Whether `text` may be the `class` of an event: 1–64 of `[a-z0-9-]`.
pub fn is_class(text: &str) -> bool {
    shape::class(Text::new(text.as_bytes())).is_ok()
}

/// An event that keeps every rule of the format, in canonical form, not yet sealed.
#[derive(Clone)]
pub struct Event {
    /// Canonical form as submitted; members that were normalised or filled in stand after it.
    text: Vec<u8>,
    layout: Layout,
    id_is_ours: bool,
    class_is_ours: bool,
}

impl Event {
    /// Reads what a service sent: one JSON object of at most 64 KiB.
    ///
    /// # Errors
    /// The first rule found broken, and where. Nothing of the event is kept.
    pub fn parse(raw: &[u8]) -> Result<Event, InvalidEvent> {
        Event::admit(raw, Form::Submitted)
    }

    /// Reads an event that says in its member `tenant` whose it is. The name has the grammar of a tenant's; the
    /// member is no part of the event: [`Event::canonical`] is that of the same event without it.
    ///
    /// # Errors
    /// As [`Event::parse`].
    pub fn parse_addressed(raw: &[u8]) -> Result<Event, InvalidEvent> {
        Event::admit(raw, Form::Addressed)
    }

    /// Reads an event of Varve's own: `action` must lie under `varve.`, and the clear member `varve` is
    /// allowed.
    ///
    /// # Errors
    /// As [`Event::parse`].
    pub fn parse_own(raw: &[u8]) -> Result<Event, InvalidEvent> {
        Event::admit(raw, Form::Own)
    }

    fn admit(raw: &[u8], form: Form) -> Result<Event, InvalidEvent> {
        let text = json::canonicalize(raw)?;
        let layout = shape::read(&text, form)?;
        let mut event = Event { text, layout, id_is_ours: false, class_is_ours: false };
        if let Some(micros) = event.layout.occurred_at {
            let normal = micros.text();
            if event.layout.members[Member::OccurredAt as usize].of(&event.text)[1..].strip_suffix(b"\"")
                != Some(&normal)
            {
                event.put(Member::OccurredAt, &normal);
            }
        }
        Ok(event)
    }

    /// The producer's id, or the one filled in.
    pub fn id(&self) -> Option<&str> {
        self.word(Member::Id)
    }

    /// What was done, as a dotted name.
    pub fn action(&self) -> &str {
        self.word(Member::Action).unwrap_or_default()
    }

    /// How it ended.
    pub fn outcome(&self) -> Outcome {
        self.layout.outcome
    }

    /// The retention class asked for, or the one filled in.
    pub fn class(&self) -> Option<&str> {
        self.word(Member::Class)
    }

    /// When it happened, as the producer claims.
    pub fn occurred_at(&self) -> Option<Micros> {
        self.layout.occurred_at
    }

    /// The tenant that an addressed event names.
    pub fn addressee(&self) -> Option<&str> {
        let name = self.layout.tenant.of(&self.text);
        std::str::from_utf8(name.strip_prefix(b"\"")?.strip_suffix(b"\"")?).ok()
    }

    /// Whether it is Varve's own.
    pub fn is_own(&self) -> bool {
        catalog::is_own(self.action())
    }

    /// Fills in the id of an event that has none; an id that is there stays.
    ///
    /// # Panics
    /// If [`is_id`] is false for `id`.
    pub fn set_id(&mut self, id: &str) {
        assert!(is_id(id), "an id to fill in must be one that an event may have");
        if self.id().is_none() {
            self.put(Member::Id, id.as_bytes());
            self.id_is_ours = true;
        }
    }

    /// Fills in the retention class of an event that has none; a class that is there stays.
    ///
    /// # Panics
    /// If [`is_class`] is false for `class`.
    pub fn set_class(&mut self, class: &str) {
        assert!(is_class(class), "a class to fill in must be one that an event may have");
        if self.class().is_none() {
            self.put(Member::Class, class.as_bytes());
            self.class_is_ours = true;
        }
    }

    /// The event in canonical form (RFC 8785), unsealed, with what was filled in.
    pub fn canonical(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.text.len());
        self.layout.write(&self.text, &mut out, |part, out| out.extend_from_slice(part.value.of(&self.text)));
        out
    }

    /// Seals the event. `random` fills its argument with fresh random bytes; it is called once, for all
    /// salts.
    ///
    /// # Panics
    /// If `id` or `class` is still absent.
    pub fn seal(&self, random: &mut dyn FnMut(&mut [u8])) -> Body {
        assert!(
            self.id().is_some() && self.class().is_some(),
            "id and class are filled in before an event is sealed"
        );
        let parts = &self.layout.parts;
        let mut salts = [[0; 16]; 1 + limits::MAX_SEALED];
        let salts = &mut salts[..=parts.len()];
        random(salts.as_flattened_mut());
        let mut fresh = salts[1..].iter();
        let mut disclosures = Vec::with_capacity(parts.len());
        let mut canonical = Vec::with_capacity(self.text.len() + 64);
        self.layout.write(&self.text, &mut canonical, |part, out| {
            let salt = fresh.next().expect("there are as many salts as parts");
            disclosures.push(self.seal_part(part, salt, out));
        });
        Body { salt: salts[0], canonical, disclosures }
    }

    /// Writes the marker of a part, with the `type` that stays clear.
    fn seal_part(&self, part: &Part, salt: &[u8; 16], out: &mut Vec<u8>) -> Disclosure {
        let clear = part.clear.of(&self.text);
        let value = if clear.is_empty() {
            part.value.of(&self.text).to_vec()
        } else {
            // `type` is the last member: what is sealed is all before it.
            let sealed = Span { start: part.value.start, end: part.clear.start }.of(&self.text);
            let sealed = sealed.strip_suffix(b",").unwrap_or(sealed);
            [sealed, b"}"].concat()
        };
        let path = part.path.text();
        write_marker(out, &commitment(path.as_bytes(), salt, &value));
        if !clear.is_empty() {
            out.push(b',');
            out.extend_from_slice(clear);
        }
        out.push(b'}');
        Disclosure { path, salt: *salt, value }
    }

    /// Sets a member whose text needs no escape.
    fn put(&mut self, member: Member, text: &[u8]) {
        let position = |length: usize| u32::try_from(length).unwrap_or(0);
        let start = position(self.text.len());
        self.text.push(b'"');
        self.text.extend_from_slice(text);
        self.text.push(b'"');
        self.layout.members[member as usize] = Span { start, end: position(self.text.len()) };
    }

    fn word(&self, member: Member) -> Option<&str> {
        let value = self.layout.members[member as usize].of(&self.text);
        std::str::from_utf8(value.strip_prefix(b"\"")?.strip_suffix(b"\"")?).ok()
    }

    /// This event with the `id` and `class` of a stored one in place of those it was sent without.
    fn as_stored(&self, id: Option<&str>, class: Option<&str>) -> Event {
        let mut event = self.clone();
        for (member, ours, value) in
            [(Member::Id, self.id_is_ours, id), (Member::Class, self.class_is_ours, class)]
        {
            if let Some(value) = value
                && (ours || event.layout.members[member as usize].is_empty())
            {
                event.put(member, value.as_bytes());
            }
        }
        event
    }
}

impl fmt::Debug for Event {
    /// Action and outcome only: the rest may be personal data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("action", &self.action())
            .field("outcome", &self.outcome())
            .finish_non_exhaustive()
    }
}
