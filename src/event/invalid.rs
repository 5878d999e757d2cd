//! Why an event is refused: a kind, and the member it concerns as an RFC 6901 pointer.
//!
//! Neither ever holds a value of the event: messages travel into logs.

use std::fmt;

/// A rule of the event format that some bytes break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InvalidKind {
    /// Over [`MAX_EVENT_BYTES`](super::limits::MAX_EVENT_BYTES), raw or canonical.
    TooLarge,
    /// Not one JSON text (RFC 8259), or something after it.
    Syntax,
    /// A string that is not UTF-8.
    InvalidUtf8,
    /// Half of a surrogate pair in `\u` escapes.
    LoneSurrogate,
    /// Containers nested deeper than [`MAX_DEPTH`](super::limits::MAX_DEPTH).
    TooDeep,
    /// A name that occurs twice in one object.
    DuplicateName,
    /// A number beyond ±(2^53 − 1), in any spelling.
    NumberRange,
    /// A member that the format does not know.
    UnknownMember,
    /// A member named `$sealed`.
    ReservedName,
    /// An `action` under `varve.` in a submitted event.
    ReservedAction,
    /// An `action` outside `varve.` in an event of Varve's own.
    ForeignAction,
    /// A required member that is absent.
    Missing,
    /// A value of another JSON type than the format asks for.
    WrongType,
    /// A string that is empty or too long.
    BadLength,
    /// A string, or number, outside its alphabet or set of values.
    BadValue,
    /// A time that is not RFC 3339, has over six decimals or second 60, or lies outside 1970–9999.
    BadTime,
    /// An array with too many elements.
    TooMany,
    /// Stored bytes that differ from their own canonical form (RFC 8785).
    NotCanonical,
    /// A stored value that must be sealed and is not, or whose marker is malformed.
    NotSealed,
}

impl InvalidKind {
    /// The kind's name in vectors and findings.
    pub fn name(self) -> &'static str {
        match self {
            InvalidKind::TooLarge => "too_large",
            InvalidKind::Syntax => "syntax",
            InvalidKind::InvalidUtf8 => "invalid_utf8",
            InvalidKind::LoneSurrogate => "lone_surrogate",
            InvalidKind::TooDeep => "too_deep",
            InvalidKind::DuplicateName => "duplicate_name",
            InvalidKind::NumberRange => "number_range",
            InvalidKind::UnknownMember => "unknown_member",
            InvalidKind::ReservedName => "reserved_name",
            InvalidKind::ReservedAction => "reserved_action",
            InvalidKind::ForeignAction => "foreign_action",
            InvalidKind::Missing => "missing",
            InvalidKind::WrongType => "wrong_type",
            InvalidKind::BadLength => "bad_length",
            InvalidKind::BadValue => "bad_value",
            InvalidKind::BadTime => "bad_time",
            InvalidKind::TooMany => "too_many",
            InvalidKind::NotCanonical => "not_canonical",
            InvalidKind::NotSealed => "not_sealed",
        }
    }

    /// What is wrong, then what to do.
    fn advice(self) -> (&'static str, &'static str) {
        match self {
            InvalidKind::TooLarge => ("over 64 KiB, as sent or in canonical form", "send less, or split it"),
            InvalidKind::Syntax => ("not valid JSON", "send one JSON object and nothing after it"),
            InvalidKind::InvalidUtf8 => ("not UTF-8", "encode strings as UTF-8"),
            InvalidKind::LoneSurrogate => {
                ("half of a surrogate pair", "escape characters above U+FFFF as pairs")
            }
            InvalidKind::TooDeep => ("nested deeper than 32", "flatten it"),
            InvalidKind::DuplicateName => ("the name occurs twice", "send each name once"),
            InvalidKind::NumberRange => ("a number beyond ±(2^53 − 1)", "send it as a string"),
            InvalidKind::UnknownMember => ("an unknown member", "remove it, or put it under `metadata`"),
            InvalidKind::ReservedName => ("the name `$sealed` is reserved", "rename the member"),
            InvalidKind::ReservedAction => {
                ("actions under `varve.` are Varve's own", "choose another prefix")
            }
            InvalidKind::ForeignAction => {
                ("an own event needs an action under `varve.`", "use the catalogue")
            }
            InvalidKind::Missing => ("a required member is absent", "send it"),
            InvalidKind::WrongType => ("a value of the wrong JSON type", "see the table of members"),
            InvalidKind::BadLength => ("a string that is empty or too long", "see the table of members"),
            InvalidKind::BadValue => ("a value outside those allowed", "see the table of members"),
            InvalidKind::BadTime => (
                "not an RFC 3339 time of 1970–9999 with at most six decimals and seconds below 60",
                "send it like 2024-05-01T12:00:00.123456Z",
            ),
            InvalidKind::TooMany => ("too many elements", "send at most 32 targets"),
            InvalidKind::NotCanonical => ("not in canonical form", "the bytes were altered or badly written"),
            InvalidKind::NotSealed => ("no well-formed `$sealed`", "the bytes were altered or badly written"),
        }
    }
}

/// Why an event is refused. Nothing of it was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidEvent {
    /// The rule it breaks.
    pub kind: InvalidKind,
    /// The member concerned, as an RFC 6901 pointer; empty for the event as a whole.
    pub pointer: String,
    /// For what is wrong with the JSON text itself: the byte offset at which reading stopped.
    pub offset: Option<usize>,
}

impl fmt::Display for InvalidEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, hint) = self.kind.advice();
        let place = if self.pointer.is_empty() { "the event" } else { self.pointer.as_str() };
        write!(f, "{place}")?;
        if let Some(offset) = self.offset {
            write!(f, " (byte {offset})")?;
        }
        write!(f, ": {what}; {hint}")
    }
}

impl std::error::Error for InvalidEvent {}

/// A refusal on its way out: each reader it passes adds the step it stood at. Boxed, so that the
/// result of a reader that succeeds fits a register.
#[derive(Debug)]
pub(crate) struct Fault(Box<Parts>);

#[derive(Debug)]
struct Parts {
    kind: InvalidKind,
    offset: Option<usize>,
    /// Innermost first, already escaped.
    steps: Vec<String>,
}

impl Fault {
    /// A refusal at the place being read.
    #[cold]
    pub(crate) fn new(kind: InvalidKind) -> Fault {
        Fault(Box::new(Parts { kind, offset: None, steps: Vec::new() }))
    }

    /// A refusal of the text at byte `offset`.
    #[cold]
    pub(crate) fn at(kind: InvalidKind, offset: usize) -> Fault {
        Fault(Box::new(Parts { kind, offset: Some(offset), steps: Vec::new() }))
    }

    /// The same refusal, inside the member `name`.
    #[cold]
    pub(crate) fn within(mut self, name: &str) -> Fault {
        self.0.steps.push(name.replace('~', "~0").replace('/', "~1"));
        self
    }

    /// The same refusal, inside element `index`.
    #[cold]
    pub(crate) fn within_element(mut self, index: usize) -> Fault {
        self.0.steps.push(index.to_string());
        self
    }

    /// The same refusal, below the pointer `path`.
    pub(crate) fn below(self, path: &str) -> InvalidEvent {
        let mut invalid = InvalidEvent::from(self);
        invalid.pointer.insert_str(0, path);
        invalid
    }
}

impl From<Fault> for InvalidEvent {
    fn from(fault: Fault) -> InvalidEvent {
        let mut pointer = String::new();
        for step in fault.0.steps.iter().rev() {
            pointer.push('/');
            pointer.push_str(step);
        }
        InvalidEvent { kind: fault.0.kind, pointer, offset: fault.0.offset }
    }
}
