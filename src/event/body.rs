//! A body: what an entry commits to, with what opens it. Expires by class, or loses disclosures by
//! erasure, while the entry stays.

use std::fmt;

use super::canonical::{Members, string_value};
use super::catalog::Value;
use super::invalid::InvalidEvent;
use super::seal::{Disclosure, SealedPath};
use super::shape::Part;
use super::view::{BodyView, DisclosureView};
use super::{Event, Micros, Outcome, catalog};
use crate::tlog::hash::{EVENT, Hash};

/// Salt, event bytes and disclosures of one event.
#[derive(Clone, PartialEq, Eq)]
pub struct Body {
    /// Salt of the event's own commitment.
    pub salt: [u8; 16],
    /// The event in canonical form, each sealed value replaced by its marker `{"$sealed":"…"}`.
    pub canonical: Vec<u8>,
    /// What opens the markers, in their order; fewer where some were withheld or erased.
    pub disclosures: Vec<Disclosure>,
}

/// Why bytes are not a body that this format can produce. The entry they belong to still holds; the
/// body must not be believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyFault {
    /// The encoding ends early or exceeds a limit.
    #[error("the encoded body is damaged: {0}; restore it from a copy")]
    Encoding(&'static str),
    /// The event bytes break a rule of the format or are not their own canonical form.
    #[error("the stored event breaks the format at {0}")]
    Event(InvalidEvent),
    /// A disclosed value breaks a rule of the format or is not its own canonical form.
    #[error("a disclosed value breaks the format at {0}")]
    Disclosure(InvalidEvent),
    /// A disclosure for a place without a marker.
    #[error("a disclosure names {path}, where the event has nothing sealed")]
    NoMarker {
        /// The path the disclosure names.
        path: String,
    },
    /// A second disclosure for one place.
    #[error("two disclosures name {path}")]
    Twice {
        /// The path both name.
        path: String,
    },
    /// A disclosure whose salt or value is not what the marker commits to.
    #[error("the disclosure of {path} is not what the event commits to")]
    NotCommitted {
        /// The marker's place.
        path: String,
    },
}

/// What [`Body::examine`] found in a sound body. `Debug` leaves out the id, which the producer chose.
#[derive(Clone, PartialEq, Eq)]
pub struct Examined<'a> {
    /// What the entry must hold as `event`.
    pub event_hash: Hash,
    /// The event's `action`.
    pub action: &'a str,
    /// The event's `id`.
    pub id: &'a str,
    /// The event's retention class.
    pub class: &'a str,
    /// The event's `outcome`.
    pub outcome: Outcome,
    /// When it happened, as the producer claims.
    pub occurred_at: Option<Micros>,
    /// Whether it is Varve's own: the entry's flag must say the same.
    pub is_own: bool,
    /// Places of markers without a disclosure.
    pub withheld: Vec<String>,
}

/// The body that `left` is the encoding of, if that is what is left of `whole` by the rules: the same salt and event bytes,
/// with some of the disclosures or all, in the same order. Neither has bytes behind it.
pub fn left_of(whole: &[u8], left: &[u8]) -> Option<Body> {
    let read = |bytes: &[u8]| {
        Body::decode(bytes).ok().filter(|(_, used)| *used == bytes.len()).map(|(body, _)| body)
    };
    let (whole, left) = (read(whole)?, read(left)?);
    let mut of_whole = whole.disclosures.iter();
    let is_part = (&left.salt, &left.canonical) == (&whole.salt, &whole.canonical)
        && left.disclosures.iter().all(|disclosure| of_whole.any(|other| other == disclosure));
    is_part.then_some(left)
}

impl Body {
    /// What the entry commits to: B3("varve v1 event", salt || canonical).
    pub fn event_hash(&self) -> Hash {
        EVENT.hash(&[&self.salt, &self.canonical])
    }

    /// Whether this is a body that the format can produce (FORMAT, verification rule 5): the event bytes
    /// keep the rules of an event and equal their own canonical form, and each disclosure is what the
    /// marker at its path commits to. Says nothing of the entry: compare [`Body::event_hash`] too.
    ///
    /// # Errors
    /// The first rule found broken.
    pub fn check(&self) -> Result<(), BodyFault> {
        self.view().checked(&[], &mut |_, _| ()).map(drop)
    }

    /// [`Body::check`] and [`Body::event_hash`] in one, with what a verifier asks next.
    ///
    /// # Errors
    /// As [`Body::check`].
    pub fn examine(&self) -> Result<Examined<'_>, BodyFault> {
        self.view().examine_with(&[], &mut |_, _| ())
    }

    /// The body without a copy.
    pub fn view(&self) -> BodyView<'_> {
        fn shown(disclosure: &Disclosure) -> DisclosureView<'_> {
            let Disclosure { path, salt, value } = disclosure;
            DisclosureView { path, salt, value }
        }
        BodyView {
            salt: &self.salt,
            canonical: &self.canonical,
            disclosures: self.disclosures.iter().map(shown).collect(),
        }
    }

    /// Places of all markers, as pointers, in canonical order.
    ///
    /// # Errors
    /// The rule that the event bytes break.
    pub fn sealed_paths(&self) -> Result<Vec<String>, BodyFault> {
        Ok(self.view().layout()?.parts.iter().map(|part| part.path.text()).collect())
    }

    /// Places of markers without a disclosure, in canonical order.
    ///
    /// # Errors
    /// The rule that the event bytes break.
    pub fn withheld(&self) -> Result<Vec<String>, BodyFault> {
        let mut paths = self.sealed_paths()?;
        paths.retain(|path| self.disclosed(path).is_none());
        Ok(paths)
    }

    /// The sealed value at `path`, if its disclosure is here: canonical JSON.
    pub fn disclosed(&self, path: &str) -> Option<&[u8]> {
        self.disclosures.iter().find(|disclosure| disclosure.path == path).map(|found| found.value.as_slice())
    }

    /// The event as it was posted, as canonical JSON with `id` and `class`. A sealed value without a
    /// disclosure stays a marker. Commitments are not compared: [`Body::check`] does that.
    ///
    /// # Errors
    /// A rule that the event or a disclosed value breaks.
    pub fn open(&self) -> Result<Vec<u8>, BodyFault> {
        let view = self.view();
        let layout = view.layout()?;
        view.place(&layout.parts, &mut |_, _| (), |_, _| Ok(()))?;
        let sealed_bytes: usize = self.disclosures.iter().map(|disclosure| disclosure.value.len()).sum();
        let mut out = Vec::with_capacity(self.canonical.len() + sealed_bytes);
        layout.write(&self.canonical, &mut out, |part, out| self.open_part(part, out));
        Ok(out)
    }

    fn open_part(&self, part: &Part, out: &mut Vec<u8>) {
        let found =
            self.disclosures.iter().find(|disclosure| SealedPath::parse(&disclosure.path) == Some(part.path));
        let Some(disclosure) = found else {
            return out.extend_from_slice(part.value.of(&self.canonical));
        };
        out.extend_from_slice(&disclosure.value);
        let clear = part.clear.of(&self.canonical);
        if !clear.is_empty() {
            // `type` sorts after every other member of the object it goes back into.
            out.pop();
            if disclosure.value != b"{}" {
                out.push(b',');
            }
            out.extend_from_slice(clear);
            out.push(b'}');
        }
    }

    /// Whether `submitted` is the event stored here: the same in canonical form, where an `id` or `class`
    /// that was absent matches what was filled in. Once a disclosure is gone, the `id` alone decides.
    pub fn same_content(&self, submitted: &Event) -> bool {
        let submitted = submitted.as_stored(self.id(), self.class());
        match self.withheld() {
            Ok(withheld) if withheld.is_empty() => {
                self.open().is_ok_and(|opened| opened == submitted.canonical())
            }
            Ok(_) => self.id().is_some() && self.id() == submitted.id(),
            Err(_) => false,
        }
    }

    /// The event's `action`.
    pub fn action(&self) -> Option<&str> {
        self.word(b"action")
    }

    /// The event's `id`.
    pub fn id(&self) -> Option<&str> {
        self.word(b"id")
    }

    /// The event's retention class.
    pub fn class(&self) -> Option<&str> {
        self.word(b"class")
    }

    /// The event's `outcome`.
    pub fn outcome(&self) -> Option<Outcome> {
        self.word(b"outcome").and_then(|name| Outcome::parse(name.as_bytes()))
    }

    /// When the event happened, as the producer claims.
    pub fn occurred_at(&self) -> Option<Micros> {
        self.word(b"occurred_at").and_then(|text| Micros::parse(text).ok())
    }

    /// Whether the event is Varve's own.
    pub fn is_own(&self) -> bool {
        self.action().is_some_and(catalog::is_own)
    }

    /// The clear facts of an event of Varve's own: its member `varve`.
    pub fn facts(&self) -> Option<Value> {
        Value::read(Members::find(&self.canonical, b"varve")?)
    }

    /// A clear member whose text needs no escape. Cheap; for bodies that were checked.
    fn word(&self, name: &[u8]) -> Option<&str> {
        let text = string_value(Members::find(&self.canonical, name)?)?;
        std::str::from_utf8(text.raw).ok()
    }

    /// Appends the storage encoding: salt (16), length (4), event bytes, number of disclosures (1), then for
    /// each: length of path (1), path, salt (16), length (4), value. Big-endian.
    ///
    /// # Panics
    /// If a length does not fit its field, which no body that passes [`Body::check`] has.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let length =
            |bytes: &[u8]| u32::try_from(bytes.len()).expect("checked bodies are below 4 GiB").to_be_bytes();
        let short = |count: usize| u8::try_from(count).expect("checked bodies have short paths, and few");
        out.extend_from_slice(&self.salt);
        out.extend_from_slice(&length(&self.canonical));
        out.extend_from_slice(&self.canonical);
        out.push(short(self.disclosures.len()));
        for disclosure in &self.disclosures {
            out.push(short(disclosure.path.len()));
            out.extend_from_slice(disclosure.path.as_bytes());
            out.extend_from_slice(&disclosure.salt);
            out.extend_from_slice(&length(&disclosure.value));
            out.extend_from_slice(&disclosure.value);
        }
    }

    /// Reads the storage encoding at the front of `bytes`; the body and how many bytes it took. Lengths are
    /// checked against the limits before anything is copied; the contents are left to [`Body::check`].
    ///
    /// # Errors
    /// [`BodyFault::Encoding`].
    pub fn decode(bytes: &[u8]) -> Result<(Body, usize), BodyFault> {
        let (view, used) = BodyView::decode(bytes)?;
        Ok((view.to_body(), used))
    }
}

impl fmt::Debug for Examined<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Examined")
            .field("event_hash", &self.event_hash)
            .field("action", &self.action)
            .field("outcome", &self.outcome)
            .field("withheld", &self.withheld)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Body {
    /// Sizes and places only: values are personal data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({} bytes, {:?})", self.canonical.len(), self.disclosures)
    }
}
