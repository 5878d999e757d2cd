//! The body of an append request, taken apart into raw events. Each is parsed later, by the service, strictly.

use axum::http::HeaderMap;
use serde::de::{Error as _, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::super::extract::{Media, json_error};
use crate::service::{BatchMode, Error, ErrorCode};

/// Events of one append request.
pub(crate) const MAX_BATCH_EVENTS: usize = 1000;

/// Characters of an `Idempotency-Key`, quotes not counted: those of an `id`.
const MAX_KEY_CHARS: usize = 128;

/// What `on_error` asks for; read here, so that no refusal repeats what was sent.
pub(super) fn batch_mode(on_error: Option<&str>) -> Result<BatchMode, Error> {
    match on_error {
        None => Ok(BatchMode::Atomic),
        Some("skip") => Ok(BatchMode::Skip),
        Some(_) => Err(Error::new(
            ErrorCode::BadRequest,
            "`on_error` takes `skip`; without it a batch is stored whole or not at all",
        )),
    }
}

/// `Idempotency-Key`, as a bare or a quoted string (draft-ietf-httpapi-idempotency-key-header §2.1).
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Error> {
    let refused = || {
        let detail =
            "`Idempotency-Key` is one value of 1 to 128 characters of A-Z a-z 0-9 . _ : / -, quotes optional";
        Error::new(ErrorCode::BadRequest, detail)
    };
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(refused());
    }
    let text = value.to_str().map_err(|_| refused())?.trim();
    let bare = match text.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"').ok_or_else(refused)?,
        None => text,
    };
    let is_id = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/-".contains(&byte);
    if bare.is_empty() || bare.len() > MAX_KEY_CHARS || !bare.bytes().all(is_id) {
        return Err(refused());
    }
    Ok(Some(bare.to_owned()))
}

/// The raw events of a body, and whether it is a batch. Each is parsed later, by the service, strictly.
pub(super) fn split(body: &[u8], media: Media) -> Result<(Vec<&[u8]>, bool), Error> {
    let first = body.iter().find(|byte| !byte.is_ascii_whitespace());
    let (events, is_batch) = match (media, first) {
        (_, None) => return Err(Error::new(ErrorCode::BadRequest, "the body holds no event")),
        (Media::Json, Some(b'[')) => {
            let Array(raws) = serde_json::from_slice(body).map_err(|error| match error.to_string() {
                text if text.starts_with(TOO_MANY) => too_many(),
                _ => json_error(&error),
            })?;
            (raws.into_iter().map(|raw| raw.get().as_bytes()).collect(), true)
        }
        (Media::Json, Some(_)) => (vec![body], false),
        (Media::Ndjson, Some(_)) => {
            let lines = body.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
            let lines: Vec<&[u8]> =
                lines.filter(|line| !line.is_empty()).take(MAX_BATCH_EVENTS + 1).collect();
            (lines, true)
        }
    };
    match events.len() {
        0 => Err(Error::new(ErrorCode::BadRequest, "the body holds no event")),
        count if count > MAX_BATCH_EVENTS => Err(too_many()),
        _ => Ok((events, is_batch)),
    }
}

const TOO_MANY: &str = "too many events";

fn too_many() -> Error {
    let detail =
        format!("over {MAX_BATCH_EVENTS} events in one request; nothing was stored, send fewer at once");
    Error::new(ErrorCode::TooLarge, detail)
}

/// An array of events, cut off at the limit: 4 MiB of `0,` would be two million of them.
struct Array<'a>(Vec<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Array<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Array<'a>, D::Error> {
        struct Bounded;
        impl<'de> Visitor<'de> for Bounded {
            type Value = Vec<&'de RawValue>;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("an array of events")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut events = Vec::new();
                while events.len() < MAX_BATCH_EVENTS {
                    match seq.next_element()? {
                        Some(event) => events.push(event),
                        None => return Ok(events),
                    }
                }
                match seq.next_element::<IgnoredAny>()? {
                    Some(_) => Err(A::Error::custom(TOO_MANY)),
                    None => Ok(events),
                }
            }
        }
        deserializer.deserialize_seq(Bounded).map(Array)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(body: &str, media: Media) -> Result<(Vec<String>, bool), ErrorCode> {
        let (raws, is_batch) = split(body.as_bytes(), media).map_err(|error| error.code)?;
        Ok((raws.iter().map(|raw| String::from_utf8(raw.to_vec()).unwrap()).collect(), is_batch))
    }

    fn owned(raws: &[&str]) -> Vec<String> {
        raws.iter().map(|raw| (*raw).to_owned()).collect()
    }

    #[test]
    fn an_object_an_array_and_lines() {
        assert_eq!(texts(" {\"a\":1}\n", Media::Json), Ok((owned(&[" {\"a\":1}\n"]), false)));
        assert_eq!(texts("[{\"a\": 1.0},\n{}]", Media::Json), Ok((owned(&["{\"a\": 1.0}", "{}"]), true)));
        assert_eq!(texts("{\"a\":1}\r\n\n {}", Media::Ndjson), Ok((owned(&["{\"a\":1}", "{}"]), true)));
        // A line that is no JSON is the event's fault, found by its strict parser.
        assert_eq!(texts("{}\nx", Media::Ndjson), Ok((owned(&["{}", "x"]), true)));
    }

    #[test]
    fn nothing_too_much_and_broken_arrays_are_refused() {
        for empty in ["", " \n", "[]"] {
            assert_eq!(texts(empty, Media::Json), Err(ErrorCode::BadRequest), "{empty:?}");
        }
        assert_eq!(texts("\n\n", Media::Ndjson), Err(ErrorCode::BadRequest));
        for broken in ["[{}", "[{},]", "[{}]x", "[{} {}]"] {
            assert_eq!(texts(broken, Media::Json), Err(ErrorCode::BadRequest), "{broken:?}");
        }
        let full = |count: usize| format!("[{}]", vec!["{}"; count].join(","));
        assert_eq!(texts(&full(1000), Media::Json).map(|(events, _)| events.len()), Ok(1000));
        assert_eq!(texts(&full(1001), Media::Json), Err(ErrorCode::TooLarge));
        assert_eq!(texts(&"{}\n".repeat(1000), Media::Ndjson).map(|(events, _)| events.len()), Ok(1000));
        assert_eq!(texts(&"{}\n".repeat(1001), Media::Ndjson), Err(ErrorCode::TooLarge));
    }

    #[test]
    fn an_array_that_is_not_utf8_is_refused() {
        assert_eq!(split(b"[{\"a\":\"\xff\"}]", Media::Json).unwrap_err().code, ErrorCode::BadRequest);
    }

    #[test]
    fn idempotency_keys_come_bare_or_quoted() {
        let of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("idempotency-key", value.parse().unwrap());
            }
            idempotency_key(&headers).map_err(|error| error.code)
        };
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&["order:1/2"]), Ok(Some("order:1/2".to_owned())));
        assert_eq!(of(&["\"order:1/2\""]), Ok(Some("order:1/2".to_owned())));
        for bad in [&["\"a"][..], &["a\""], &[""], &["\"\""], &["a b"], &["a", "a"], &[&"x".repeat(129)]] {
            assert_eq!(of(bad), Err(ErrorCode::BadRequest), "{bad:?}");
        }
    }
}
