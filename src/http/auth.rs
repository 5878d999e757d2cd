//! Who may pass: decided from the head of a request, before its body is read.
//!
//! Order: key (401) → tenant (a foreign one and a missing one are the same 404) → scope (403). The service
//! checks again; this is the early answer, so that nobody uploads 4 MiB in order to hear `forbidden`.
//!
//! A handler has the name of a tenant from [`OfTenant`] alone, whose type says what was checked: a handler that
//! asks for other than its route in the table answers `internal`, to everybody.

use std::marker::PhantomData;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{FromRequestParts, RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::connection::Leaving;
use super::error::{Problem, Refused};
use super::extract::{LentBody, Rest};
use super::{App, busy};
use crate::service::{Error, ErrorCode, Principal, Scope, no_such_tenant};

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
    /// Any key, of whichever tenant: the service knows what it is for.
    KnownKey,
    /// A key with this scope, of whichever tenant: the body says which, and the service checks each.
    ScopeAnywhere(Scope),
}

/// What a handler wants of its caller, as a type.
pub(crate) trait Permission {
    const NEEDS: Needs;
}

macro_rules! permissions {
    ($($(#[$doc:meta])* $name:ident = $needs:expr;)*) => {
        $($(#[$doc])* pub(crate) struct $name;
        impl Permission for $name { const NEEDS: Needs = $needs; })*
    };
}

permissions! {
    /// Events are appended.
    ToIngest = Needs::Scope(Scope::Ingest);
    /// Events are read.
    ToRead = Needs::Scope(Scope::Read);
    /// Proofs, checkpoints, verification.
    ToVerify = Needs::Scope(Scope::Verify);
    /// Keys are managed.
    ToAdminister = Needs::ScopeOrOperator(Scope::Admin);
    /// Retention is read and set.
    ToRetain = Needs::Scope(Scope::Retention);
    /// Holds are placed, listed, released.
    ToHold = Needs::Scope(Scope::Hold);
    /// Persons are erased.
    ToErase = Needs::Scope(Scope::Erase);
    /// What the tenant looks like from outside.
    ToLook = Needs::AnyKeyOrOperator;
}

/// The tenant with Varve's own log. Its events are the operator's business, so the service decides.
const SYSTEM_TENANT: &str = "_system";

/// Middleware of one route: authenticates, checks tenant and scope, leaves the [`Caller`] in the extensions.
pub(crate) async fn guard(
    State((app, needs)): State<(App, Needs)>,
    params: Result<RawPathParams, RawPathParamsRejection>,
    request: Request,
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
    let passed = Arc::clone(&app.in_flight)
        .try_acquire_owned()
        .map_err(|_| busy("as many requests as the server takes are under way"))
        .and_then(|place| {
            let principal = app.service.authenticate(bearer(request.headers())?)?;
            may_pass(&principal, needs, tenant)
                .inspect_err(|error| app.service.note_refused_use(&principal, error))?;
            match tenant {
                Some(tenant) if !app.service.has_tenant(tenant) => Err(no_such_tenant()),
                _ => Ok((place, principal)),
            }
        });
    let (head, body) = request.into_parts();
    let expects = head.headers.contains_key(header::EXPECT);
    let leaving = head.extensions.get::<Leaving>().cloned();
    let body = LentBody::new(body);
    let (mut answer, _place) = match passed {
        Ok((place, by)) => {
            let mut request = Request::from_parts(head, Body::new(body.lend()));
            let tenant = tenant.map(str::to_owned);
            request.extensions_mut().insert(Passed { by, tenant, needs });
            (next.run(request).await, Some(place))
        }
        Err(error) => (Problem(error).into_response(), None),
    };
    let is_refused = answer.extensions().get::<Refused>().is_some();
    // Who expects to be told to go on has not sent the body; what does not come is not waited for twice.
    if is_refused
        && !expects
        && body.drain().await == Rest::Long
        && let Some(leaving) = leaving
    {
        leaving.after(&mut answer);
    }
    answer
}

/// What [`guard`] has checked.
#[derive(Clone)]
struct Passed {
    by: Principal,
    tenant: Option<String>,
    needs: Needs,
}

impl Passed {
    fn of(parts: &Parts) -> Result<Passed, Problem> {
        let passed = parts.extensions.get::<Passed>().cloned();
        passed.ok_or_else(|| Problem::new(ErrorCode::Internal, "this route has no guard: a defect of Varve"))
    }
}

/// The principal that [`guard`] let pass, on a route that names no tenant.
pub(crate) struct Caller(pub(crate) Principal);

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Caller, Problem> {
        Passed::of(parts).map(|passed| Caller(passed.by))
    }
}

/// A principal, and the tenant of the path, on which it may do what `P` says.
pub(crate) struct OfTenant<P> {
    pub(crate) by: Principal,
    pub(crate) tenant: String,
    permission: PhantomData<P>,
}

impl<S: Sync, P: Permission> FromRequestParts<S> for OfTenant<P> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<OfTenant<P>, Problem> {
        match Passed::of(parts)? {
            Passed { by, tenant: Some(tenant), needs } if needs == P::NEEDS => {
                Ok(OfTenant { by, tenant, permission: PhantomData })
            }
            _ => Err(Problem::new(
                ErrorCode::Internal,
                "this route's handler wants another permission than its guard checks: a defect of Varve",
            )),
        }
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
            (Needs::Nothing | Needs::KnownKey, _) | (Needs::Operator, true) => Ok(()),
            (Needs::ScopeAnywhere(scope), _) if principal.scopes.has(scope) => Ok(()),
            (Needs::ScopeAnywhere(scope), _) => Err(forbidden(scope.name())),
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
    if principal.is_gateway() && needs == Needs::Scope(Scope::Ingest) {
        return Ok(());
    }
    if !is_own {
        return Err(no_such_tenant());
    }
    match needs {
        Needs::Nothing | Needs::AnyKeyOrOperator => Ok(()),
        Needs::Operator | Needs::KnownKey | Needs::ScopeAnywhere(_) => Err(forbidden("operator")),
        Needs::Scope(scope) | Needs::ScopeOrOperator(scope) if principal.scopes.has(scope) => Ok(()),
        Needs::Scope(scope) | Needs::ScopeOrOperator(scope) => Err(forbidden(scope.name())),
    }
}

fn forbidden(scope: &str) -> Error {
    Error::new(ErrorCode::Forbidden, format!("the key lacks the scope `{scope}`; use a key that has it"))
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
    fn a_gateway_appends_everywhere_and_reads_nothing() {
        let gateway = key(Some("_system"), &[Scope::Ingest]);
        assert_eq!(code(&gateway, Needs::Scope(Scope::Ingest), Some("acme")), None);
        assert_eq!(code(&gateway, Needs::ScopeAnywhere(Scope::Ingest), None), None);
        for needs in
            [Needs::Scope(Scope::Read), Needs::ScopeOrOperator(Scope::Admin), Needs::AnyKeyOrOperator]
        {
            assert_eq!(code(&gateway, needs, Some("acme")), Some(ErrorCode::NotFound), "{needs:?}");
        }
        assert_eq!(code(&gateway, Needs::Operator, None), Some(ErrorCode::Forbidden));
        let reader = key(Some("_system"), &[Scope::Read]);
        assert_eq!(code(&reader, Needs::Scope(Scope::Ingest), Some("acme")), Some(ErrorCode::NotFound));
        assert_eq!(code(&reader, Needs::ScopeAnywhere(Scope::Ingest), None), Some(ErrorCode::Forbidden));
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
