//! The members of an event (FORMAT, event): which there are, of what type and length, which are
//! sealed. One reader for both forms: as submitted, with values in the clear, and as stored, with
//! markers in their place. It reads canonical bytes once and says where each part lies.

use super::Outcome;
use super::canonical::{Reader, Text, write_string};
use super::invalid::{Fault, InvalidKind};
use super::limits::{
    MAX_ACTION_CHARS, MAX_CLASS_CHARS, MAX_EVENT_BYTES, MAX_ID_CHARS, MAX_LABEL_CHARS,
    MAX_STORED_EVENT_BYTES, MAX_TARGETS, MAX_TEXT_CHARS,
};
use super::seal::{Commitment, MARKER_OPENING, SealedPath, read_commitment};
use super::tenant::Tenant;
use super::term::Field;
use super::time::Micros;
use crate::tlog::hash::Hash;

/// A top-level member. The order is that of canonical form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Member {
    Action,
    Actor,
    Changes,
    Class,
    Context,
    Id,
    Metadata,
    OccurredAt,
    Outcome,
    Producer,
    Reason,
    Targets,
    Varve,
}

impl Member {
    pub(crate) const COUNT: usize = 13;
    /// All members with their names, in order.
    pub(crate) const ALL: [(Member, &'static str); Member::COUNT] = [
        (Member::Action, "action"),
        (Member::Actor, "actor"),
        (Member::Changes, "changes"),
        (Member::Class, "class"),
        (Member::Context, "context"),
        (Member::Id, "id"),
        (Member::Metadata, "metadata"),
        (Member::OccurredAt, "occurred_at"),
        (Member::Outcome, "outcome"),
        (Member::Producer, "producer"),
        (Member::Reason, "reason"),
        (Member::Targets, "targets"),
        (Member::Varve, "varve"),
    ];

    fn named(name: &[u8]) -> Option<Member> {
        Some(match name {
            b"action" => Member::Action,
            b"actor" => Member::Actor,
            b"changes" => Member::Changes,
            b"class" => Member::Class,
            b"context" => Member::Context,
            b"id" => Member::Id,
            b"metadata" => Member::Metadata,
            b"occurred_at" => Member::OccurredAt,
            b"outcome" => Member::Outcome,
            b"producer" => Member::Producer,
            b"reason" => Member::Reason,
            b"targets" => Member::Targets,
            b"varve" => Member::Varve,
            _ => return None,
        })
    }
}

/// Which form the bytes have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// From a service; nothing under `varve.`.
    Submitted,
    /// The same, with the member `tenant` that says whose event it is. That member is no part of the event.
    Addressed,
    /// Varve's own, before sealing; only under `varve.`.
    Own,
    /// Sealed, with `id` and `class`.
    Stored,
}

/// A range of the bytes read; empty where there is nothing.
#[derive(Clone, Copy, Default)]
pub(crate) struct Span {
    pub(crate) start: u32,
    pub(crate) end: u32,
}

impl Span {
    fn new(start: usize, end: usize) -> Span {
        // `read` refuses inputs over 4 GiB, and far shorter ones.
        Span { start: u32::try_from(start).unwrap_or(0), end: u32::try_from(end).unwrap_or(0) }
    }

    pub(crate) fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// The bytes.
    pub(crate) fn of(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.start as usize..self.end as usize]
    }
}

/// A part that is sealed, or is to be.
#[derive(Clone, Copy)]
pub(crate) struct Part {
    pub(crate) path: SealedPath,
    /// The whole value; in a stored event the object that holds the marker.
    pub(crate) value: Span,
    /// Its member `type`, name and value, which stays clear; it is the last of its object.
    pub(crate) clear: Span,
    /// In a stored event, what the marker commits to.
    pub(crate) commitment: Hash,
}

/// Where the parts of an event lie in its bytes.
#[derive(Clone)]
pub(crate) struct Layout {
    pub(crate) members: [Span; Member::COUNT],
    /// In canonical order.
    pub(crate) parts: Vec<Part>,
    pub(crate) outcome: Outcome,
    pub(crate) occurred_at: Option<Micros>,
    /// The string of `tenant`, with its quotes, in an addressed event.
    pub(crate) tenant: Span,
}

impl Layout {
    /// Writes the event in canonical order from the bytes it was read from; `part` writes each part.
    pub(crate) fn write(&self, bytes: &[u8], out: &mut Vec<u8>, mut part: impl FnMut(&Part, &mut Vec<u8>)) {
        let mut parts = self.parts.iter().peekable();
        let present =
            Member::ALL.into_iter().filter(|(member, _)| !self.members[*member as usize].is_empty());
        for (place, (member, name)) in present.enumerate() {
            out.push(if place == 0 { b'{' } else { b',' });
            write_string(out, name);
            out.push(b':');
            match member {
                Member::Targets => {
                    out.push(b'[');
                    let mut first = true;
                    while let Some(target) = parts.next_if(|next| matches!(next.path, SealedPath::Target(_)))
                    {
                        if !first {
                            out.push(b',');
                        }
                        first = false;
                        part(target, out);
                    }
                    out.push(b']');
                }
                Member::Actor | Member::Changes | Member::Context | Member::Metadata | Member::Reason => {
                    // Parts were found in the order in which members are written.
                    if let Some(next) = parts.next() {
                        part(next, out);
                    }
                }
                _ => out.extend_from_slice(self.members[member as usize].of(bytes)),
            }
        }
        out.push(b'}');
    }
}

/// Reads an event in the given form.
pub(crate) fn read(bytes: &[u8], form: Form) -> Result<Layout, Fault> {
    read_with(bytes, form, &[])
}

/// [`read`], where the commitments that the markers should say, in their order, are at hand. Where a marker says
/// another, or there is none, it is decoded.
pub(crate) fn read_with(bytes: &[u8], form: Form, known: &[Commitment]) -> Result<Layout, Fault> {
    if bytes.len() > MAX_STORED_EVENT_BYTES {
        return Err(Fault::new(InvalidKind::TooLarge));
    }
    let mut reader = Reader::new(bytes)?;
    let mut layout = Layout {
        members: [Span::default(); Member::COUNT],
        parts: Vec::with_capacity(8),
        outcome: Outcome::Unknown,
        occurred_at: None,
        tenant: Span::default(),
    };
    let mut own = false;
    reader.object(1, |reader, name| {
        if form == Form::Addressed && name.raw == ADDRESS.as_bytes() {
            let start = reader.offset();
            tenant(reader.string()?)?;
            layout.tenant = Span::new(start, reader.offset());
            return Ok(());
        }
        let member = match Member::named(name.raw) {
            Some(Member::Varve) if !own => None,
            found => found,
        };
        let member = member.ok_or_else(|| Fault::new(InvalidKind::UnknownMember))?;
        let start = reader.offset();
        match member {
            Member::Action => own = action(reader, form)?,
            Member::Class => class(reader.string()?)?,
            Member::Id => id(reader.string()?)?,
            Member::OccurredAt => layout.occurred_at = Some(time(reader, form)?),
            Member::Outcome => {
                let name = reader.string()?.raw;
                layout.outcome = Outcome::parse(name).ok_or_else(|| Fault::new(InvalidKind::BadValue))?;
            }
            Member::Producer => producer(reader)?,
            Member::Varve => reader.object(2, |reader, _| fact(reader))?,
            Member::Targets => targets(reader, form, &mut layout.parts, known)?,
            Member::Actor => part(reader, form, SealedPath::Actor, &mut layout.parts, known)?,
            Member::Changes => part(reader, form, SealedPath::Changes, &mut layout.parts, known)?,
            Member::Context => part(reader, form, SealedPath::Context, &mut layout.parts, known)?,
            Member::Metadata => part(reader, form, SealedPath::Metadata, &mut layout.parts, known)?,
            Member::Reason => part(reader, form, SealedPath::Reason, &mut layout.parts, known)?,
        }
        layout.members[member as usize] = Span::new(start, reader.offset());
        Ok(())
    })?;
    reader.finish()?;
    for (member, name) in Member::ALL {
        let required = match member {
            Member::Action | Member::Outcome => true,
            Member::Id | Member::Class => form == Form::Stored,
            _ => false,
        };
        if required && layout.members[member as usize].is_empty() {
            return Err(missing(name));
        }
    }
    if form == Form::Addressed && layout.tenant.is_empty() {
        return Err(missing(ADDRESS));
    }
    Ok(layout)
}

/// Reads the value of a disclosure, alone, and visits its terms. Pointers of faults are relative to it.
pub(crate) fn read_disclosed(
    value: &[u8],
    path: SealedPath,
    visit: &mut impl FnMut(Field, &[u8]),
) -> Result<(), Fault> {
    if value.len() > MAX_EVENT_BYTES {
        return Err(Fault::new(InvalidKind::TooLarge));
    }
    let mut reader = Reader::new(value)?;
    open_value(&mut reader, path, false, visit)?;
    reader.finish()
}

/// A fact: a string, a non-negative integer, a truth value, or a list of strings. A reader that knew fewer types
/// than a writer would take a fact that is there for one that is not.
fn fact(reader: &mut Reader<'_>) -> Result<(), Fault> {
    match reader.peek() {
        b'"' => drop(reader.string()?),
        b'[' => reader.array(3, |reader, _| reader.string().map(drop))?,
        b'-' | b'0'..=b'9' => {
            let is_whole = reader.number()?.iter().all(u8::is_ascii_digit);
            if !is_whole {
                return Err(Fault::new(InvalidKind::BadValue));
            }
        }
        _ if reader.take(b"true") || reader.take(b"false") => {}
        _ => return Err(reader.wrong_type()),
    }
    Ok(())
}

/// The member that says whose an addressed event is.
const ADDRESS: &str = "tenant";

/// A tenant's name, or one of Varve's own.
fn tenant(text: Text<'_>) -> Result<(), Fault> {
    let sound = std::str::from_utf8(text.raw).is_ok_and(|name| Tenant::parse_any(name).is_ok());
    if sound { Ok(()) } else { Err(Fault::new(InvalidKind::BadValue)) }
}

/// `[A-Za-z0-9._:/-]`, 1 to 128.
pub(crate) fn id(text: Text<'_>) -> Result<(), Fault> {
    word(text, MAX_ID_CHARS, OF_ID)
}

/// `[a-z0-9-]`, 1 to 64.
pub(crate) fn class(text: Text<'_>) -> Result<(), Fault> {
    word(text, MAX_CLASS_CHARS, OF_CLASS)
}

/// Bits of `ALPHABETS`.
const OF_ID: u8 = 1;
const OF_CLASS: u8 = 2;

/// In which words a byte may stand.
static ALPHABETS: [u8; 256] = {
    let mut alphabets = [0; 256];
    // Both alphabets are ASCII.
    let mut byte = 0_u8;
    while byte.is_ascii() {
        alphabets[byte as usize] = match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' => OF_ID | OF_CLASS,
            b'A'..=b'Z' | b'.' | b'_' | b':' | b'/' => OF_ID,
            _ => 0,
        };
        byte += 1;
    }
    alphabets
};

fn word(text: Text<'_>, max_chars: usize, alphabet: u8) -> Result<(), Fault> {
    length(text, 1, max_chars)?;
    // All bytes are looked up, none is asked about: a loop without a branch in it.
    let common = text.raw.iter().fold(alphabet, |common, &byte| common & ALPHABETS[usize::from(byte)]);
    if common == alphabet { Ok(()) } else { Err(Fault::new(InvalidKind::BadValue)) }
}

/// Words of `[a-z0-9_-]` joined by dots. Whether it lies under `varve.`.
fn action(reader: &mut Reader<'_>, form: Form) -> Result<bool, Fault> {
    let text = reader.string()?;
    length(text, 1, MAX_ACTION_CHARS)?;
    let mut at_word_start = true;
    for &byte in text.raw {
        let fits = match byte {
            b'.' => !at_word_start,
            _ => matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'),
        };
        if !fits {
            return Err(Fault::new(InvalidKind::BadValue));
        }
        at_word_start = byte == b'.';
    }
    if at_word_start {
        return Err(Fault::new(InvalidKind::BadValue));
    }
    let own = text.raw.starts_with(b"varve.");
    match form {
        Form::Submitted | Form::Addressed if own || text.raw == b"varve" => {
            Err(Fault::new(InvalidKind::ReservedAction))
        }
        Form::Own if !own => Err(Fault::new(InvalidKind::ForeignAction)),
        _ => Ok(own),
    }
}

fn time(reader: &mut Reader<'_>, form: Form) -> Result<Micros, Fault> {
    let text = reader.string()?.raw;
    let parsed = std::str::from_utf8(text).ok().and_then(|text| Micros::parse(text).ok());
    let micros = parsed.ok_or_else(|| Fault::new(InvalidKind::BadTime))?;
    if form == Form::Stored && !Micros::is_canonical(text) {
        return Err(Fault::new(InvalidKind::NotCanonical));
    }
    Ok(micros)
}

fn producer(reader: &mut Reader<'_>) -> Result<(), Fault> {
    let (mut service, mut instance, mut seq) = (false, false, false);
    reader.object(2, |reader, name| match name.raw {
        b"instance" => {
            instance = true;
            length(reader.string()?, 1, MAX_LABEL_CHARS)
        }
        b"service" => {
            service = true;
            length(reader.string()?, 1, MAX_LABEL_CHARS)
        }
        b"seq" => {
            seq = true;
            let text = reader.number()?;
            // Canonical integers have neither point nor exponent; within ±(2^53 − 1) all are written out.
            let counts = text != b"0" && text.iter().all(u8::is_ascii_digit);
            if counts { Ok(()) } else { Err(Fault::new(InvalidKind::BadValue)) }
        }
        _ => Err(Fault::new(InvalidKind::UnknownMember)),
    })?;
    match (service, instance, seq) {
        (false, ..) => Err(missing("service")),
        // A number counts from the start of one instance; without that it proves no hole.
        (true, false, true) => Err(missing("instance")),
        _ => Ok(()),
    }
}

fn targets(
    reader: &mut Reader<'_>,
    form: Form,
    parts: &mut Vec<Part>,
    known: &[Commitment],
) -> Result<(), Fault> {
    reader.array(2, |reader, index| {
        if index >= MAX_TARGETS {
            return Err(Fault::new(InvalidKind::TooMany));
        }
        part(reader, form, SealedPath::Target(index), parts, known)
    })
}

/// Takes a part that is sealed in the stored form and clear in the others.
fn part(
    reader: &mut Reader<'_>,
    form: Form,
    path: SealedPath,
    parts: &mut Vec<Part>,
    known: &[Commitment],
) -> Result<(), Fault> {
    let start = reader.offset();
    let (clear, commitment) = if form == Form::Stored {
        marker(reader, path, known.get(parts.len()))?
    } else {
        (open_value(reader, path, true, &mut |_, _| ())?, Hash::ZERO)
    };
    parts.push(Part { path, value: Span::new(start, reader.offset()), clear, commitment });
    Ok(())
}

/// Takes an object with a marker, and the `type` that may stand beside it.
fn marker(
    reader: &mut Reader<'_>,
    path: SealedPath,
    known: Option<&Commitment>,
) -> Result<(Span, Hash), Fault> {
    if !reader.take(MARKER_OPENING.split_last().map_or(&[][..], |(_, opening)| opening)) {
        return Err(Fault::new(InvalidKind::NotSealed));
    }
    let commitment = match known {
        Some(known) if reader.take_string(known.text()) => *known.hash(),
        _ => read_commitment(reader.string()?.raw).ok_or_else(|| Fault::new(InvalidKind::NotSealed))?,
    };
    let mut clear = Span::default();
    if reader.take(b",") {
        let start = reader.offset();
        reader.members(Some(Text::new(b"$sealed")), |reader, name| match name.raw {
            b"type" if has_type(path) => kind(reader, start, &mut clear),
            _ => Err(Fault::new(InvalidKind::UnknownMember)),
        })?;
    } else if !reader.take(b"}") {
        return Err(Fault::new(InvalidKind::NotSealed));
    }
    Ok((clear, commitment))
}

fn has_type(path: SealedPath) -> bool {
    matches!(path, SealedPath::Actor | SealedPath::Target(_))
}

/// Takes a value as submitted, or as disclosed (`whole` is false; then `type` stays outside it). The
/// place of the member `type`. Visits the terms in it.
fn open_value(
    reader: &mut Reader<'_>,
    path: SealedPath,
    whole: bool,
    visit: &mut impl FnMut(Field, &[u8]),
) -> Result<Span, Fault> {
    let mut clear = Span::default();
    match path {
        SealedPath::Actor => {
            let mut id = false;
            reader.object(2, |reader, name| match name.raw {
                b"id" => {
                    id = true;
                    term(reader, 1, Field::Actor, visit)
                }
                b"email" | b"name" => text(reader, 0),
                b"type" if whole => kind_after(reader, &mut clear),
                _ => Err(Fault::new(InvalidKind::UnknownMember)),
            })?;
            if !id {
                return Err(missing("id"));
            }
        }
        SealedPath::Target(_) => reader.object(3, |reader, name| match name.raw {
            b"id" => term(reader, 1, Field::Target, visit),
            b"name" => text(reader, 0),
            b"type" if whole => kind_after(reader, &mut clear),
            _ => Err(Fault::new(InvalidKind::UnknownMember)),
        })?,
        SealedPath::Context => reader.object(2, |reader, name| match name.raw {
            b"ip" => term(reader, 0, Field::Ip, visit),
            b"request_id" => term(reader, 0, Field::RequestId, visit),
            b"case_id" | b"country" | b"session_id" | b"trace_id" | b"user_agent" => text(reader, 0),
            _ => Err(Fault::new(InvalidKind::UnknownMember)),
        })?,
        SealedPath::Changes => reader.array(2, |reader, _| change(reader))?,
        SealedPath::Reason => drop(reader.string()?),
        SealedPath::Metadata => reader.object(2, |reader, _| reader.value(3))?,
    }
    Ok(clear)
}

fn change(reader: &mut Reader<'_>) -> Result<(), Fault> {
    let mut field = false;
    reader.object(3, |reader, name| match name.raw {
        b"field" => {
            field = true;
            text(reader, 1)
        }
        b"from" | b"to" => reader.value(4),
        _ => Err(Fault::new(InvalidKind::UnknownMember)),
    })?;
    if field { Ok(()) } else { Err(missing("field")) }
}

/// Takes the value of `type`, whose member began at `start`.
fn kind(reader: &mut Reader<'_>, start: usize, clear: &mut Span) -> Result<(), Fault> {
    length(reader.string()?, 1, MAX_LABEL_CHARS)?;
    *clear = Span::new(start, reader.offset());
    Ok(())
}

/// Takes the value of `type` right after its name and colon.
fn kind_after(reader: &mut Reader<'_>, clear: &mut Span) -> Result<(), Fault> {
    kind(reader, reader.offset() - b"\"type\":".len(), clear)
}

fn text(reader: &mut Reader<'_>, min_chars: usize) -> Result<(), Fault> {
    length(reader.string()?, min_chars, MAX_TEXT_CHARS)
}

/// Takes a text that an event can be found by.
fn term(
    reader: &mut Reader<'_>,
    min_chars: usize,
    field: Field,
    visit: &mut impl FnMut(Field, &[u8]),
) -> Result<(), Fault> {
    let text = reader.string()?;
    length(text, min_chars, MAX_TEXT_CHARS)?;
    visit(field, &text.decode());
    Ok(())
}

fn length(text: Text<'_>, min_chars: usize, max_chars: usize) -> Result<(), Fault> {
    let fits = text.raw.len() >= min_chars && text.fits(max_chars);
    if fits { Ok(()) } else { Err(Fault::new(InvalidKind::BadLength)) }
}

#[cold]
fn missing(name: &str) -> Fault {
    Fault::new(InvalidKind::Missing).within(name)
}
