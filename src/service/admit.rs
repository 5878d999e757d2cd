//! Admission: an event is parsed, completed, and held against the other events of its batch. Nothing here
//! looks at the store.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::append::BatchMode;
use super::view::Receipt;
use super::{Error, ErrorCode};
use crate::event::catalog::Class;
use crate::event::limits::MAX_EVENT_BYTES;
use crate::event::{Event, InvalidEvent, InvalidKind, is_id};
use crate::ingest::prepare::fill_in;
use crate::retention::Policy;
use crate::store::log::Log;

/// One event to append.
pub struct Submitted<'a> {
    /// The event's JSON.
    pub raw: &'a [u8],
    /// The `Idempotency-Key` header, where there is one.
    pub idempotency_key: Option<&'a str>,
}

/// One event on its way: parsed, and answered or not yet.
pub(super) struct Item {
    /// The log it goes to; `None` where it was refused.
    pub(super) log: Option<Arc<Log>>,
    /// The event, while it is not handed over.
    pub(super) event: Option<Event>,
    /// Code of its class.
    pub(super) class: u16,
    pub(super) answer: Option<Result<Receipt, Error>>,
    /// The earlier item of the batch that this one repeats.
    pub(super) repeats: Option<usize>,
}

/// Finds ids that stand twice in the batch. The later one repeats the earlier one, or conflicts with it.
pub(super) fn find_repeats_in_batch(items: &mut [Item], mode: BatchMode) -> Result<(), Error> {
    if items.len() < 2 {
        return Ok(());
    }
    let mut found = Vec::new();
    let mut first_of: HashMap<(u32, &str), usize> = HashMap::with_capacity(items.len());
    for (position, item) in items.iter().enumerate() {
        let (Some(log), Some(event)) = (&item.log, &item.event) else { continue };
        let Some(id) = event.id() else { continue };
        match first_of.entry((log.identity.number, id)) {
            Entry::Vacant(place) => {
                place.insert(position);
            }
            Entry::Occupied(first) => {
                let first = *first.get();
                let earlier = items[first].event.as_ref();
                let same = earlier.is_some_and(|earlier| earlier.canonical() == event.canonical());
                found.push((position, first, same));
            }
        }
    }
    for (position, first, same) in found {
        if same {
            items[position].repeats = Some(first);
            continue;
        }
        let error = placed_in(id_conflict(u64::MAX), items.len(), position);
        if mode == BatchMode::Atomic {
            return Err(error);
        }
        items[position].answer = Some(Err(error));
    }
    Ok(())
}

/// An item that repeats an earlier one of its batch has that one's receipt, or shares its refusal.
pub(super) fn answer_repeats_in_batch(items: &mut [Item]) {
    for position in 0..items.len() {
        if let (Some(first), None) = (items[position].repeats, &items[position].answer) {
            let answer = items[first].answer.clone();
            items[position].answer =
                answer.map(|answer| answer.map(|receipt| Receipt { duplicate: true, ..receipt }));
        }
    }
}

/// Parses one event by `parse` and fills in what it may leave out.
pub(super) fn admit(
    submitted: &Submitted<'_>,
    parse: fn(&[u8]) -> Result<Event, InvalidEvent>,
) -> Result<Event, Error> {
    if submitted.raw.len() > MAX_EVENT_BYTES {
        let detail = format!(
            "the event has {} bytes; the limit is {MAX_EVENT_BYTES}. Nothing was stored.",
            submitted.raw.len()
        );
        return Err(Error::new(ErrorCode::TooLarge, detail));
    }
    let mut event = parse(submitted.raw).map_err(|invalid| {
        let code =
            if invalid.kind == InvalidKind::Syntax { ErrorCode::BadRequest } else { ErrorCode::InvalidEvent };
        Error::new(code, invalid.to_string()).at(invalid.pointer)
    })?;
    if let Some(key) = submitted.idempotency_key {
        if !is_id(key) {
            return Err(Error::new(
                ErrorCode::BadRequest,
                "Idempotency-Key must be 1 to 128 of A-Z a-z 0-9 . _ : / -; nothing was stored",
            ));
        }
        match event.id() {
            None => event.set_id(key),
            Some(id) if id == key => {}
            Some(_) => {
                return Err(Error::new(
                    ErrorCode::BadRequest,
                    "Idempotency-Key and `id` differ; nothing was stored. Send one of them.",
                )
                .at("/id"));
            }
        }
    }
    Ok(event)
}

/// Fills in what an event may leave out, its class by `policy`, and answers the code of its class.
pub(super) fn classify(event: &mut Event, policy: Option<&Policy>) -> Result<u16, Error> {
    let named = event.class().map(|class| match policy {
        Some(policy) => policy.class_named(class),
        None => Class::named(class).filter(|class| *class != Class::Permanent).map(Class::code),
    });
    let code = match (named, policy) {
        (Some(Some(code)), _) => code,
        (Some(None), _) => {
            let detail = "`class` names no retention class of this tenant; nothing was stored. Leave it out, use \
                          security, processing, privacy-request or long-evidence, or add the class to the policy.";
            return Err(Error::new(ErrorCode::InvalidEvent, detail).at("/class"));
        }
        (None, Some(policy)) => {
            let (name, code) = policy.class_for(event.action());
            fill_in(event, name);
            return Ok(code);
        }
        (None, None) => Class::Security.code(),
    };
    fill_in(event, Class::Security.name());
    Ok(code)
}

/// The refusal of the event at `position`; of a single event it needs no index.
pub(super) fn placed_in(error: Error, count: usize, position: usize) -> Error {
    if count > 1 { error.in_batch(position) } else { error }
}

/// Another event has the id: that at `index`, or for `u64::MAX` one of the same batch.
pub(super) fn id_conflict(index: u64) -> Error {
    let whose = if index == u64::MAX {
        "another event of this batch".to_owned()
    } else {
        format!("the event at index {index}")
    };
    Error::new(
        ErrorCode::IdConflict,
        format!("`id` is taken by {whose}, whose content differs; nothing was stored of this one. Give a new event a new id."),
    )
    .at("/id")
}
