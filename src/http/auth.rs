//! Who may pass: decided from the head of a request, before its body is read.
//!
//! Order: key (401) → tenant (a foreign one and a missing one are the same 404) → scope (403). The service
//! checks again; this is the early answer, so that nobody uploads 4 MiB in order to hear `forbidden`.

use std::pin::Pin;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{FromRequestParts, RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::App;
use super::error::Problem;
use crate::service::{Error, ErrorCode, Principal, Scope};

/// What a route asks of its caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Needs {
    /// No key.
    Nothing,
    /// The operator.
    Operator,
    /// A key of the tenant with this scope.
    Scope(Scope),
    /// A key of the tenant with this scope, or the operator.
    ScopeOrOperator(Scope),
    /// Any key of the tenant, or the operator.
    AnyKeyOrOperator,
}

/// The tenant with Varve's own log. Its events are the operator's business, so the service decides.
const SYSTEM_TENANT: &str = "_system";

/// Bytes of a refused request's body that are read and thrown away, so that the connection can be used again.
const MAX_DRAIN_BYTES: usize = 64 * 1024;

/// How long that may take.
const DRAIN_TIME: Duration = Duration::from_secs(1);

/// Middleware of one route: authenticates, checks tenant and scope, leaves the [`Caller`] in the extensions.
pub(crate) async fn guard(
    State((app, needs)): State<(App, Needs)>,
    params: Result<RawPathParams, RawPathParamsRejection>,
    mut request: Request,
    next: Next,
) -> Response {
    if needs == Needs::Nothing {
        return next.run(request).await;
    }
    let Ok(params) = params else {
        return Problem::new(ErrorCode::BadRequest, "the path cannot be read: names are UTF-8")
            .into_response();
    };
    let tenant = params.iter().find(|(name, _)| *name == "tenant").map(|(_, value)| value);
    let principal =
        bearer(request.headers()).and_then(|token| app.service.authenticate(token)).and_then(|principal| {
            may_pass(&principal, needs, tenant)
                .inspect_err(|error| app.service.note_refused_use(&principal, error))
                .map(|()| principal)
        });
    match principal {
        Ok(principal) => {
            request.extensions_mut().insert(Caller(principal));
            next.run(request).await
        }
        Err(error) => {
            drain(request).await;
            Problem(error).into_response()
        }
    }
}

/// The principal that [`guard`] let pass.
#[derive(Clone)]
pub(crate) struct Caller(pub(crate) Principal);

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Caller, Problem> {
        let caller = parts.extensions.get::<Caller>().cloned();
        caller.ok_or_else(|| Problem::new(ErrorCode::Internal, "this route has no guard: a defect of Varve"))
    }
}

/// The token of `Authorization: Bearer …`; the scheme is case-insensitive (RFC 9110 §11.1).
fn bearer(headers: &HeaderMap) -> Result<&str, Error> {
    let missing = || {
        Error::new(ErrorCode::Unauthenticated, "this route needs a key: send `Authorization: Bearer varve_…`")
    };
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Err(missing()) };
    let text = value.to_str().map_err(|_| missing())?;
    let (scheme, token) = text.split_once(' ').ok_or_else(missing)?;
    let token = token.trim();
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
        return Err(missing());
    }
    Ok(token)
}

/// Whether `principal` meets `needs` on `tenant`.
fn may_pass(principal: &Principal, needs: Needs, tenant: Option<&str>) -> Result<(), Error> {
    let is_operator = principal.is_operator();
    let Some(tenant) = tenant else {
        return match (needs, is_operator) {
            (Needs::Nothing, _) | (Needs::Operator, true) => Ok(()),
            _ => Err(forbidden("operator")),
        };
    };
    let is_own = principal.tenant.as_deref() == Some(tenant);
    if is_operator {
        return match needs {
            Needs::Scope(scope) if tenant != SYSTEM_TENANT => Err(forbidden(scope.name())),
            _ => Ok(()),
        };
    }
    if !is_own {
        return Err(no_such_tenant());
    }
    match needs {
        Needs::Nothing | Needs::AnyKeyOrOperator => Ok(()),
        Needs::Operator => Err(forbidden("operator")),
        Needs::Scope(scope) | Needs::ScopeOrOperator(scope) if principal.scopes.has(scope) => Ok(()),
        Needs::Scope(scope) | Needs::ScopeOrOperator(scope) => Err(forbidden(scope.name())),
    }
}

/// The answer for a tenant that does not exist and for one of somebody else: the same bytes.
pub(crate) fn no_such_tenant() -> Error {
    Error::new(ErrorCode::NotFound, "no such tenant, or the key belongs to another one")
}

fn forbidden(scope: &str) -> Error {
    Error::new(ErrorCode::Forbidden, format!("the key lacks the scope `{scope}`; use a key that has it"))
}

/// Reads what little is left of a refused request. With `Expect` nothing is read: the client has not sent it.
async fn drain(request: Request) {
    if request.headers().contains_key(header::EXPECT) {
        return;
    }
    let body = request.into_body();
    if body.is_end_stream() {
        return;
    }
    // A client that is slower than this loses its connection; it was refused anyway.
    let _ = tokio::time::timeout(DRAIN_TIME, discard(body)).await;
}

async fn discard(mut body: Body) {
    let mut seen = 0;
    while seen <= MAX_DRAIN_BYTES {
        match std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            Some(Ok(frame)) => seen += frame.data_ref().map_or(0, |data| data.len()),
            Some(Err(_)) | None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::Scopes;

    fn key(tenant: Option<&str>, scopes: &[Scope]) -> Principal {
        let scopes = scopes.iter().fold(Scopes::default(), |all, scope| all.with(*scope));
        Principal { key_id: "k".into(), tenant: tenant.map(str::to_owned), scopes }
    }

    fn code(principal: &Principal, needs: Needs, tenant: Option<&str>) -> Option<ErrorCode> {
        may_pass(principal, needs, tenant).err().map(|error| error.code)
    }

    #[test]
    fn a_key_passes_where_tenant_and_scope_are_its_own() {
        let reader = key(Some("acme"), &[Scope::Read]);
        assert_eq!(code(&reader, Needs::Scope(Scope::Read), Some("acme")), None);
        assert_eq!(code(&reader, Needs::AnyKeyOrOperator, Some("acme")), None);
        assert_eq!(code(&reader, Needs::Scope(Scope::Ingest), Some("acme")), Some(ErrorCode::Forbidden));
        assert_eq!(
            code(&reader, Needs::ScopeOrOperator(Scope::Admin), Some("acme")),
            Some(ErrorCode::Forbidden)
        );
        assert_eq!(code(&reader, Needs::Operator, None), Some(ErrorCode::Forbidden));
    }

    #[test]
    fn a_foreign_tenant_is_not_found_whatever_the_scope() {
        let all = [Scope::Admin, Scope::Ingest, Scope::Read, Scope::Verify, Scope::Export, Scope::Operator];
        let other = key(Some("acme"), &all);
        for needs in [
            Needs::Scope(Scope::Read),
            Needs::Scope(Scope::Ingest),
            Needs::ScopeOrOperator(Scope::Admin),
            Needs::AnyKeyOrOperator,
            Needs::Operator,
        ] {
            assert_eq!(code(&other, needs, Some("globex")), Some(ErrorCode::NotFound), "{needs:?}");
        }
        // A scope named `operator` on a tenant's key does not make it the operator.
        assert_eq!(code(&other, Needs::Operator, None), Some(ErrorCode::Forbidden));
    }

    #[test]
    fn the_operator_manages_tenants_and_reads_none() {
        let operator = key(None, &[Scope::Operator]);
        assert_eq!(code(&operator, Needs::Operator, None), None);
        assert_eq!(code(&operator, Needs::AnyKeyOrOperator, Some("acme")), None);
        assert_eq!(code(&operator, Needs::ScopeOrOperator(Scope::Admin), Some("acme")), None);
        for scope in [Scope::Read, Scope::Ingest, Scope::Verify, Scope::Admin] {
            assert_eq!(code(&operator, Needs::Scope(scope), Some("acme")), Some(ErrorCode::Forbidden));
        }
        assert_eq!(code(&operator, Needs::Scope(Scope::Read), Some("_system")), None);
    }

    #[test]
    fn one_bearer_token_or_none() {
        let with = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, value.parse().unwrap());
            }
            bearer(&headers).map(str::to_owned).map_err(|error| error.code)
        };
        assert_eq!(with(&["Bearer varve_a_b"]), Ok("varve_a_b".to_owned()));
        assert_eq!(with(&["bearer  varve_a_b"]), Ok("varve_a_b".to_owned()));
        for bad in [&[][..], &["Basic abc"], &["Bearer"], &["Bearer "], &["Bearer a", "Bearer b"]] {
            assert_eq!(with(bad), Err(ErrorCode::Unauthenticated), "{bad:?}");
        }
    }
}
