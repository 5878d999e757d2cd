//! A body that is only looked at: what an encoding holds, in its place, checked without a copy.

use super::canonical::string_value;
use super::invalid::InvalidEvent;
use super::limits::{MAX_EVENT_BYTES, MAX_SEALED, MAX_STORED_EVENT_BYTES};
use super::seal::{Commitment, Disclosure, SealedPath, commitment};
use super::shape::{self, Form, Layout, Member, Part};
use super::term::{Field, prefixes};
use super::{Body, BodyFault, Examined, catalog};
use crate::tlog::hash::{EVENT, Hash};

/// A [`Body`] that belongs to someone else.
#[derive(Clone)]
pub struct BodyView<'a> {
    /// Salt of the event's own commitment.
    pub salt: &'a [u8; 16],
    /// The event in canonical form, sealed.
    pub canonical: &'a [u8],
    /// What opens the markers.
    pub disclosures: Vec<DisclosureView<'a>>,
}

/// A [`Disclosure`] that belongs to someone else.
#[derive(Clone, Copy)]
pub struct DisclosureView<'a> {
    /// RFC 6901 pointer to the marker's place.
    pub path: &'a str,
    /// The fresh random bytes of the commitment.
    pub salt: &'a [u8; 16],
    /// Canonical JSON.
    pub value: &'a [u8],
}

impl<'a> BodyView<'a> {
    /// Looks at a storage encoding (see [`Body::encode`]) at the front of `bytes`; the body and how many bytes it
    /// takes. Lengths are checked against the limits; the contents are left to [`BodyView::examine_with`].
    ///
    /// # Errors
    /// [`BodyFault::Encoding`].
    pub fn decode(bytes: &'a [u8]) -> Result<(BodyView<'a>, usize), BodyFault> {
        let mut rest = bytes;
        let salt = fixed::<16>(&mut rest)?;
        let canonical = counted(&mut rest, MAX_STORED_EVENT_BYTES)?;
        let count = usize::from(fixed::<1>(&mut rest)?[0]);
        if count > MAX_SEALED {
            return Err(BodyFault::Encoding("more disclosures than an event can have"));
        }
        let mut disclosures = Vec::with_capacity(count);
        for _ in 0..count {
            let length = usize::from(fixed::<1>(&mut rest)?[0]);
            let path = std::str::from_utf8(take(&mut rest, length)?)
                .ok()
                .filter(|path| SealedPath::parse(path).is_some());
            let path = path.ok_or(BodyFault::Encoding("a disclosure of a place that is never sealed"))?;
            let salt = fixed::<16>(&mut rest)?;
            let value = counted(&mut rest, MAX_EVENT_BYTES)?;
            disclosures.push(DisclosureView { path, salt, value });
        }
        Ok((BodyView { salt, canonical, disclosures }, bytes.len() - rest.len()))
    }

    /// A copy of its own.
    pub fn to_body(&self) -> Body {
        let copy = |shown: &DisclosureView<'_>| Disclosure {
            path: shown.path.to_owned(),
            salt: *shown.salt,
            value: shown.value.to_vec(),
        };
        Body {
            salt: *self.salt,
            canonical: self.canonical.to_vec(),
            disclosures: self.disclosures.iter().map(copy).collect(),
        }
    }

    /// See [`Body::event_hash`].
    pub fn event_hash(&self) -> Hash {
        EVENT.hash(&[self.salt, self.canonical])
    }

    /// [`Body::examine`] with the commitments that the caller has computed from the very disclosures of this body, in
    /// their order; a list of another length is ignored. Visits what [`terms`](super::terms) does, on the way: of a
    /// body that turns out unsound, terms that mean nothing.
    ///
    /// # Errors
    /// As [`Body::check`].
    pub fn examine_with(
        &self,
        computed: &[Commitment],
        visit: &mut impl FnMut(Field, &[u8]),
    ) -> Result<Examined<'a>, BodyFault> {
        let (layout, disclosed) = self.checked(computed, visit)?;
        let canonical = self.canonical;
        let word = |member: Member| {
            string_value(layout.members[member as usize].of(canonical))
                .and_then(|text| std::str::from_utf8(text.raw).ok())
                .unwrap_or_default()
        };
        let (action, class, id) = (word(Member::Action), word(Member::Class), word(Member::Id));
        visit(Field::Action, action.as_bytes());
        prefixes(action.as_bytes(), visit);
        visit(Field::Class, class.as_bytes());
        visit(Field::Id, id.as_bytes());
        visit(Field::Outcome, word(Member::Outcome).as_bytes());
        let withheld = layout.parts.iter().enumerate().filter(|(place, _)| disclosed >> place & 1 == 0);
        Ok(Examined {
            event_hash: self.event_hash(),
            action,
            id,
            class,
            outcome: layout.outcome,
            occurred_at: layout.occurred_at,
            is_own: catalog::is_own(action),
            withheld: withheld.map(|(_, part)| part.path.text()).collect(),
        })
    }

    /// Checks the whole body; the layout, and which of its parts have a disclosure.
    pub(super) fn checked(
        &self,
        computed: &[Commitment],
        visit: &mut impl FnMut(Field, &[u8]),
    ) -> Result<(Layout, u64), BodyFault> {
        let computed = if computed.len() == self.disclosures.len() { computed } else { &[] };
        let layout = self.layout_with(computed)?;
        let mut given = computed.iter();
        let disclosed = self.place(&layout.parts, visit, |part, shown| {
            let commitment = given.next().map_or_else(
                || commitment(shown.path.as_bytes(), shown.salt, shown.value),
                |given| *given.hash(),
            );
            if commitment != part.commitment {
                return Err(BodyFault::NotCommitted { path: shown.path.to_owned() });
            }
            Ok(())
        })?;
        Ok((layout, disclosed))
    }

    pub(super) fn layout(&self) -> Result<Layout, BodyFault> {
        self.layout_with(&[])
    }

    fn layout_with(&self, known: &[Commitment]) -> Result<Layout, BodyFault> {
        shape::read_with(self.canonical, Form::Stored, known)
            .map_err(|fault| BodyFault::Event(InvalidEvent::from(fault)))
    }

    /// Puts each disclosure to its marker, checks its value, visits its terms, and checks whatever `check` asks. A bit
    /// for each part that has one.
    pub(super) fn place(
        &self,
        parts: &[Part],
        visit: &mut impl FnMut(Field, &[u8]),
        mut check: impl FnMut(&Part, &DisclosureView<'_>) -> Result<(), BodyFault>,
    ) -> Result<u64, BodyFault> {
        // A bit for each of at most 37 parts.
        const { assert!(MAX_SEALED <= 64) };
        let mut disclosed = 0_u64;
        for shown in &self.disclosures {
            let path = || shown.path.to_owned();
            let part = SealedPath::parse(shown.path)
                .and_then(|sealed| parts.iter().enumerate().find(|(_, part)| part.path == sealed));
            let (place, part) = part.ok_or_else(|| BodyFault::NoMarker { path: path() })?;
            if disclosed >> place & 1 == 1 {
                return Err(BodyFault::Twice { path: path() });
            }
            disclosed |= 1 << place;
            shape::read_disclosed(shown.value, part.path, visit)
                .map_err(|fault| BodyFault::Disclosure(fault.below(shown.path)))?;
            check(part, shown)?;
        }
        Ok(disclosed)
    }
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], BodyFault> {
    let (head, tail) = rest.split_at_checked(length).ok_or(BodyFault::Encoding("it ends early"))?;
    *rest = tail;
    Ok(head)
}

fn fixed<'a, const N: usize>(rest: &mut &'a [u8]) -> Result<&'a [u8; N], BodyFault> {
    let (head, tail) = rest.split_first_chunk().ok_or(BodyFault::Encoding("it ends early"))?;
    *rest = tail;
    Ok(head)
}

fn counted<'a>(rest: &mut &'a [u8], max_bytes: usize) -> Result<&'a [u8], BodyFault> {
    let length = usize::try_from(u32::from_be_bytes(*fixed(rest)?)).unwrap_or(usize::MAX);
    if length > max_bytes {
        return Err(BodyFault::Encoding("a length beyond the limit"));
    }
    take(rest, length)
}
