//! The bounds of an event, each with its arithmetic. Nothing in this room grows past them.

/// Raw bytes of one submitted event, and bytes of its canonical form.
///
/// Both, because canonical form can be longer than what was sent: `1e15` becomes sixteen digits.
pub const MAX_EVENT_BYTES: usize = 64 * 1024;

/// Containers within one another, the event itself being the first.
pub const MAX_DEPTH: usize = 32;

/// Largest magnitude of a number: 2^53 − 1, up to which every integer has its own double.
pub const MAX_NUMBER: u64 = (1 << 53) - 1;

/// Targets of one event.
pub const MAX_TARGETS: usize = 32;

/// Characters of `id`.
pub const MAX_ID_CHARS: usize = 128;

/// Characters of `action`.
pub const MAX_ACTION_CHARS: usize = 128;

/// Characters of `class`.
pub const MAX_CLASS_CHARS: usize = 64;

/// Characters of a `type` and of the producer's `service` and `instance`, which stay clear.
pub const MAX_LABEL_CHARS: usize = 128;

/// Characters of one string in `actor`, `targets` and `context`, and of a change's `field`.
pub const MAX_TEXT_CHARS: usize = 2048;

/// Sealed values of one event: actor, changes, context, metadata, reason, and each target.
pub const MAX_SEALED: usize = 5 + MAX_TARGETS;

/// Bytes of a stored event: the submitted one, a marker (57 bytes) beside each clear part, and the
/// two members that are filled in (`id` ≤ 136 bytes with name and quotes, `class` ≤ 75), and 7 of a time.
pub const MAX_STORED_EVENT_BYTES: usize = MAX_EVENT_BYTES + MAX_SEALED * 64 + 256;

/// Bytes of an encoded body. A sealed value leaves the event, so what is stored is at most the
/// submitted event once, with salt (16), path (≤ 11), lengths (5) and brackets (2) a disclosure.
pub const MAX_BODY_BYTES: usize = MAX_STORED_EVENT_BYTES + MAX_SEALED * 48 + 21;
