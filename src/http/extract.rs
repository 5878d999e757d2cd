//! Parameters and bodies: everything that a client sends, bounded and parsed once.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{FromRequestParts, Query, RawPathParams};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use hyper::body::{Frame, SizeHint};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::OwnedSemaphorePermit;

use super::error::Problem;
use super::{App, BODY_UNIT_BYTES, busy};
use crate::service::{Error, ErrorCode};

/// Bytes of an append request.
pub(crate) const MAX_APPEND_BYTES: usize = 4 * 1024 * 1024;

/// Bytes of any other request with a body; they hold a name and a few scopes.
pub(crate) const MAX_SMALL_BYTES: usize = 16 * 1024;

/// Bytes of a refused body that are read and thrown away before the answer.
const MAX_DRAIN_BYTES: usize = 64 * 1024;

/// How long these may take to arrive.
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// The media types that a route may read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Media {
    /// `application/json`
    Json,
    /// `application/x-ndjson`
    Ndjson,
}

/// Query parameters, strict: an unknown or repeated one is a `bad_request`.
pub(crate) struct Params<T>(pub(crate) T);

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Params<T>, Problem> {
        match Query::<T>::try_from_uri(&parts.uri) {
            Ok(Query(params)) => Ok(Params(params)),
            Err(rejection) => Err(Problem::new(
                ErrorCode::BadRequest,
                format!("the query parameters cannot be read: {}", query_reason(&rejection.body_text())),
            )),
        }
    }
}

/// What is wrong with a query. The text of the rejection names a parameter of ours and what was expected, never a value;
/// of one that is not ours it holds the name, which the client chose.
fn query_reason(text: &str) -> String {
    let text = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(text);
    if !text.contains("unknown field") {
        return text.to_owned();
    }
    // The last of these is the deserializer's own: the list behind it holds none.
    match text.rsplit_once("`, expected ") {
        Some((_, known)) => format!("one is unknown; expected {known}"),
        None => "this route takes none".to_owned(),
    }
}

/// A parameter of the path by its name in the route's template. The tenant is none of these: it comes from
/// `auth::OfTenant`, checked against the key.
pub(crate) trait Segment: Sized {
    const NAME: &'static str;
    /// What the text must be, for the refusal.
    const IS: &'static str;

    fn read(text: &str) -> Option<Self>;
}

/// The leaf index of `/events/{index}`.
pub(crate) struct Index(pub(crate) u64);

impl Segment for Index {
    const NAME: &'static str = "index";
    const IS: &'static str = "an index is a whole number from 0";

    fn read(text: &str) -> Option<Index> {
        // One spelling: no sign, no leading zero.
        let is_plain =
            text == "0" || !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|_| is_plain).map(Index)
    }
}

/// The id of a key or a job.
pub(crate) struct Id(pub(crate) String);

impl Segment for Id {
    const NAME: &'static str = "id";
    const IS: &'static str = "an id is text";

    fn read(text: &str) -> Option<Id> {
        Some(Id(text.to_owned()))
    }
}

/// A [`Segment`] as a handler takes it.
pub(crate) struct At<T>(pub(crate) T);

impl<S: Sync + Send, T: Segment + Send> FromRequestParts<S> for At<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<At<T>, Problem> {
        let params = RawPathParams::from_request_parts(parts, state).await;
        let params = params.map_err(|_| Problem::new(ErrorCode::BadRequest, "the path is not UTF-8"))?;
        let text = params.iter().find(|(name, _)| *name == T::NAME).map(|(_, text)| text);
        let text = text.ok_or_else(|| {
            Problem::new(ErrorCode::Internal, "this route has no such segment: a defect of Varve")
        })?;
        let read = T::read(text);
        read.map(At)
            .ok_or_else(|| Problem::new(ErrorCode::BadRequest, format!("the path cannot be read: {}", T::IS)))
    }
}

/// The media type of the request; `application/json` where none is named. Parameters (`charset`) are ignored.
pub(crate) fn media_type(headers: &HeaderMap) -> Result<Media, Error> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(Media::Json) };
    let text = value.to_str().unwrap_or_default();
    let essence = text.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        Ok(Media::Json)
    } else if essence.eq_ignore_ascii_case("application/x-ndjson") {
        Ok(Media::Ndjson)
    } else {
        Err(Error::new(
            ErrorCode::UnsupportedMediaType,
            "send `Content-Type: application/json`, or `application/x-ndjson` where events are appended",
        ))
    }
}

/// A body in memory, with the memory units it holds.
pub(crate) struct Held {
    bytes: Vec<u8>,
    _units: Option<OwnedSemaphorePermit>,
}

impl Held {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Reads a body of at most `limit` bytes within the time for bodies.
///
/// # Errors
/// `too_large`, before a byte is read where `Content-Length` says so; `busy` when all bodies together have
/// reached their bound; `bad_request` when the client breaks off or is too slow.
pub(crate) async fn read_body(
    app: &App,
    headers: &HeaderMap,
    body: Body,
    limit: usize,
) -> Result<Held, Error> {
    let announced = body.size_hint().exact();
    if announced.is_some_and(|length| length > limit as u64) {
        return Err(too_large(limit));
    }
    if headers.contains_key(header::CONTENT_ENCODING) {
        return Err(Error::new(
            ErrorCode::UnsupportedMediaType,
            "compressed bodies are not taken; send it without `Content-Encoding`",
        ));
    }
    let body_time = app.limits.body_time;
    match tokio::time::timeout(body_time, collect(app, body, announced, limit)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Error::new(
            ErrorCode::BadRequest,
            format!("the body did not arrive within {} s; nothing was stored", body_time.as_secs()),
        )),
    }
}

/// Parses a small JSON body into `T`.
///
/// # Errors
/// As [`read_body`]; `bad_request` with line and column where it is not the JSON expected.
pub(crate) async fn read_json<T: DeserializeOwned>(
    app: &App,
    headers: &HeaderMap,
    body: Body,
) -> Result<T, Error> {
    let held = read_json_body(app, headers, body, MAX_SMALL_BYTES).await?;
    serde_json::from_slice(held.bytes()).map_err(|error| json_error(&error))
}

/// Takes a body that is sent as JSON, unread.
///
/// # Errors
/// As [`read_body`]; 415 where it is sent as something else.
pub(crate) async fn read_json_body(
    app: &App,
    headers: &HeaderMap,
    body: Body,
    limit: usize,
) -> Result<Held, Error> {
    if media_type(headers)? != Media::Json {
        return Err(Error::new(ErrorCode::UnsupportedMediaType, "send `Content-Type: application/json`"));
    }
    read_body(app, headers, body, limit).await
}

/// Where JSON cannot be read. serde_json's own text can quote a value, so only the place is told.
pub(crate) fn json_error(error: &serde_json::Error) -> Error {
    let what = match error.classify() {
        serde_json::error::Category::Data => "is JSON, but not with the members that are documented",
        serde_json::error::Category::Eof => "ends in the middle of JSON",
        _ => "is not JSON",
    };
    let (line, column) = (error.line(), error.column());
    Error::new(ErrorCode::BadRequest, format!("the body {what} (line {line}, column {column})"))
}

async fn collect(app: &App, mut body: Body, announced: Option<u64>, limit: usize) -> Result<Held, Error> {
    let mut units: Option<OwnedSemaphorePermit> = None;
    let mut held_units = 0;
    // Memory is taken as bytes arrive, so that a client that announces much and sends little holds little.
    let first = announced.and_then(|length| usize::try_from(length).ok()).unwrap_or(0).min(BODY_UNIT_BYTES);
    let mut bytes = Vec::with_capacity(first);
    loop {
        let data = match std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            None => return Ok(Held { bytes, _units: units }),
            Some(Err(_)) => {
                return Err(Error::new(ErrorCode::BadRequest, "the body broke off; nothing was stored"));
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => data,
                Err(_trailers) => continue,
            },
        };
        if bytes.len() + data.len() > limit {
            return Err(too_large(limit));
        }
        let wanted = (bytes.len() + data.len()).div_ceil(BODY_UNIT_BYTES);
        if wanted > held_units {
            let more = u32::try_from(wanted - held_units).unwrap_or(u32::MAX);
            let permit = Arc::clone(&app.bodies)
                .try_acquire_many_owned(more)
                .map_err(|_| busy("too many requests are being received"))?;
            match &mut units {
                Some(held) => held.merge(permit),
                None => units = Some(permit),
            }
            held_units = wanted;
        }
        bytes.extend_from_slice(&data);
    }
}

/// A request's body that a handler reads and that comes back when it did not.
///
/// A connection that is closed over unread bytes is reset, and the answer on it can be lost; so what a refusal left
/// unread is read and thrown away, within bounds: a little of it before the answer, and the connection stays; more of
/// it after the answer, and the connection ends (`connection::linger`). The handler has ended by then: nobody else
/// holds the lock.
pub(crate) struct LentBody(Arc<Mutex<Body>>);

/// What became of a body that was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rest {
    /// It was read to its end.
    Read,
    /// There is more of it than is read before an answer.
    Long,
    /// It does not come.
    Slow,
}

impl LentBody {
    pub(crate) fn new(body: Body) -> LentBody {
        LentBody(Arc::new(Mutex::new(body)))
    }

    /// The body as the handler has it.
    pub(crate) fn lend(&self) -> LentBody {
        LentBody(self.0.clone())
    }

    /// Reads what is left, at most [`MAX_DRAIN_BYTES`] and for [`DRAIN_TIME`].
    pub(crate) async fn drain(mut self) -> Rest {
        if self.size_hint().lower() > MAX_DRAIN_BYTES as u64 {
            return Rest::Long;
        }
        let discard = async {
            let mut seen = 0;
            while seen <= MAX_DRAIN_BYTES && !self.is_end_stream() {
                match std::future::poll_fn(|context| Pin::new(&mut self).poll_frame(context)).await {
                    Some(Ok(frame)) => seen += frame.data_ref().map_or(0, Bytes::len),
                    Some(Err(_)) | None => return Rest::Read,
                }
            }
            if self.is_end_stream() { Rest::Read } else { Rest::Long }
        };
        tokio::time::timeout(DRAIN_TIME, discard).await.unwrap_or(Rest::Slow)
    }
}

impl HttpBody for LentBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut *self.0.lock()).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().size_hint()
    }
}

fn too_large(limit: usize) -> Error {
    Error::new(
        ErrorCode::TooLarge,
        format!("the body is over {limit} bytes; nothing was stored, send it in smaller parts"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_are_json_ndjson_or_refused() {
        let of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, value.parse().unwrap());
            media_type(&headers).map_err(|error| error.code)
        };
        assert_eq!(media_type(&HeaderMap::new()).ok(), Some(Media::Json));
        assert_eq!(of("application/json"), Ok(Media::Json));
        assert_eq!(of("Application/JSON; charset=utf-8"), Ok(Media::Json));
        assert_eq!(of("application/x-ndjson"), Ok(Media::Ndjson));
        for bad in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""] {
            assert_eq!(of(bad), Err(ErrorCode::UnsupportedMediaType), "{bad:?}");
        }
    }

    #[test]
    fn an_index_has_one_spelling() {
        for (text, index) in [("0", Some(0)), ("10", Some(10)), ("18446744073709551615", Some(u64::MAX))] {
            assert_eq!(Index::read(text).map(|at| at.0), index);
        }
        for bad in ["", "+1", "-1", "01", "00", "1.0", "0x1", "18446744073709551616", "first"] {
            assert!(Index::read(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_parameter_of_ours_is_named_and_another_is_not() {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        #[expect(dead_code, reason = "only its parser is looked at")]
        struct Want {
            from: u64,
            to: Option<bool>,
        }
        let reason = |query: &str| {
            let uri = format!("/x?{query}").parse().unwrap();
            query_reason(&Query::<Want>::try_from_uri(&uri).err().unwrap().body_text())
        };
        assert_eq!(reason("jane=1"), "one is unknown; expected `from` or `to`");
        assert_eq!(reason("a%60,%20expected%20jane=1"), "one is unknown; expected `from` or `to`");
        assert_eq!(reason("from=jane"), "from: invalid digit found in string");
        assert_eq!(reason("from=1&from=2"), "duplicate field `from`");
        assert!(!reason("from=1&to=jane").contains("jane"));
    }

    #[test]
    fn the_place_is_told_and_the_value_is_not() {
        #[derive(serde::Deserialize, Debug)]
        #[serde(deny_unknown_fields)]
        struct Want {
            #[expect(dead_code, reason = "only its parser is looked at")]
            tenant: u8,
        }
        for body in
            [r#"{"tenant":"secret-person"}"#, r#"{"secret-person":1}"#, r#"{"tenant":"#, "secret-person"]
        {
            let error = json_error(&serde_json::from_str::<Want>(body).unwrap_err());
            assert_eq!(error.code, ErrorCode::BadRequest);
            assert!(!error.detail.contains("secret"), "{}", error.detail);
            assert!(error.detail.contains("line 1"), "{}", error.detail);
        }
    }
}
