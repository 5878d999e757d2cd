//! `/v1/tenants/{tenant}/log`: what C2SP `tlog-tiles` asks of a log, and consistency for clients that want no tiles.

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::App;
use super::super::auth::{OfTenant, ToVerify};
use super::super::error::Answer;
use super::super::extract::{At, Params, Segment};
use super::super::openapi::{BARE, Content, Operation, PLAIN, of, parameters};
use crate::tlog::tile::TilePath;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Range {
    /// A tree size, from 1.
    #[schemars(range(min = 1, max = 1_099_511_627_776_u64))]
    from: u64,
    /// A tree size, at least `from` and at most the log's.
    #[schemars(range(min = 1, max = 1_099_511_627_776_u64))]
    to: u64,
}

/// A consistency proof of RFC 6962 §2.1.2.
#[derive(Serialize, JsonSchema)]
struct Consistency {
    from: u64,
    to: u64,
    /// Hashes, base64url.
    proof: Vec<String>,
}

pub(crate) const CHECKPOINT: Operation = Operation {
    id: "readCheckpoint",
    summary: "Reads the newest checkpoint of a log (C2SP tlog-checkpoint).",
    answers: &[(200, "A signed note.", Content::Text(PLAIN))],
    ..BARE
};

/// `GET …/log/checkpoint`: a C2SP checkpoint.
pub(crate) async fn checkpoint(State(app): State<App>, of: OfTenant<ToVerify>) -> Answer {
    Ok(super::text(app.blocking(move |service| service.checkpoint(&of.by, &of.tenant)).await?))
}

pub(crate) const CONSISTENCY: Operation = Operation {
    id: "proveConsistency",
    summary: "Proves that a smaller tree of a log is the start of a larger one (RFC 6962).",
    query: Some(parameters::<Range>),
    answers: &[(200, "The proof.", Content::Json(of::<Consistency>))],
    ..BARE
};

/// `GET …/log/consistency?from=&to=`: RFC 6962 consistency proof between two tree sizes.
pub(crate) async fn consistency(
    State(app): State<App>,
    of: OfTenant<ToVerify>,
    Params(Range { from, to }): Params<Range>,
) -> Answer {
    let proof = app.blocking(move |service| service.consistency(&of.by, &of.tenant, from, to)).await?;
    Ok(super::json(StatusCode::OK, &Consistency { from, to, proof }))
}

pub(crate) const TILE: Operation = Operation {
    id: "readTile",
    summary: "Reads a tile of hashes or a bundle of entries (C2SP tlog-tiles); `tile` is `<L>/<N>[.p/<W>]` or `entries/<N>[.p/<W>]`.",
    answers: &[(200, "The tile; it never changes.", Content::Bytes)],
    ..BARE
};

/// The rest of a path under `/log/tile/`.
pub(crate) struct Tile(TilePath);

impl Segment for Tile {
    const NAME: &'static str = "tile";
    const IS: &'static str = "a tile is <L>/<N>[.p/<W>] or entries/<N>[.p/<W>] (C2SP tlog-tiles)";

    fn read(text: &str) -> Option<Tile> {
        TilePath::parse(&format!("tile/{text}")).ok().map(Tile)
    }
}

/// `GET …/log/tile/{*tile}`
pub(crate) async fn tile(State(app): State<App>, of: OfTenant<ToVerify>, At(Tile(tile)): At<Tile>) -> Answer {
    let bytes = app.blocking(move |service| service.tile(&of.by, &of.tenant, &tile)).await?;
    Ok(forever(bytes))
}

/// Bytes that never change; only the client may keep them, for the next one may not see them.
fn forever(bytes: Vec<u8>) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("private, max-age=31536000, immutable")),
    ];
    (StatusCode::OK, headers, bytes).into_response()
}
