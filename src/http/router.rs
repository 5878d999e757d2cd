//! Every route, as a table: method, path, what the caller needs, handler.

use axum::Router;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post, put};

use super::answer::identify;
use super::auth::{Needs, guard};
use super::error::Problem;
use super::openapi::Operation;
use super::routes::{
    approvals, compactions, description, erasures, events, health, holds, keys, log, metrics, retention,
    tenants, verifications,
};
use super::{App, HttpLimits};
use crate::service::{ErrorCode, Scope, Service};

/// One line of the table.
pub(crate) struct Route {
    pub(crate) path: &'static str,
    pub(crate) method: &'static str,
    pub(crate) needs: Needs,
    handler: MethodRouter<App>,
    pub(crate) about: Operation,
}

const TENANTS: &str = "/v1/tenants";
const TENANT: &str = "/v1/tenants/{tenant}";
const KEYS: &str = "/v1/tenants/{tenant}/keys";
const KEY: &str = "/v1/tenants/{tenant}/keys/{id}";
const EVENTS: &str = "/v1/tenants/{tenant}/events";
const EVENTS_OF_TENANTS: &str = "/v1/events";
const EVENT: &str = "/v1/tenants/{tenant}/events/{index}";
const PROOF: &str = "/v1/tenants/{tenant}/events/{index}/proof";
const CHECKPOINT: &str = "/v1/tenants/{tenant}/log/checkpoint";
const CONSISTENCY: &str = "/v1/tenants/{tenant}/log/consistency";
const VERIFY: &str = "/v1/tenants/{tenant}/verify";
const VERIFICATION: &str = "/v1/tenants/{tenant}/verify/{id}";
const RETENTION: &str = "/v1/tenants/{tenant}/retention";
const HOLDS: &str = "/v1/tenants/{tenant}/holds";
const HOLD: &str = "/v1/tenants/{tenant}/holds/{id}";
const ERASURES: &str = "/v1/tenants/{tenant}/erasures";
const ERASURE: &str = "/v1/tenants/{tenant}/erasures/{id}";
const CLOSE: &str = "/v1/tenants/{tenant}/close";
const APPROVAL: &str = "/v1/approvals/{id}";
const COMPACTIONS: &str = "/v1/compactions";
const COMPACTION: &str = "/v1/compactions/{id}";
const TILE: &str = "/v1/tenants/{tenant}/log/tile/{*tile}";

#[rustfmt::skip]
pub(crate) fn table() -> Vec<Route> {
    let route = |method, path, needs, handler, about| Route { path, method, needs, handler, about };
    let nothing = Needs::Nothing;
    let operator = Needs::Operator;
    let any = Needs::AnyKeyOrOperator;
    let admin = Needs::ScopeOrOperator(Scope::Admin);
    let ingest = Needs::Scope(Scope::Ingest);
    let gateway = Needs::ScopeAnywhere(Scope::Ingest);
    let read = Needs::Scope(Scope::Read);
    let verify = Needs::Scope(Scope::Verify);
    let retain = Needs::Scope(Scope::Retention);
    let hold = Needs::Scope(Scope::Hold);
    let erase = Needs::Scope(Scope::Erase);
    let known = Needs::KnownKey;
    vec![
        route("POST",   TENANTS,           operator, post(tenants::create),          tenants::CREATE),
        route("GET",    TENANTS,           operator, get(tenants::list),             tenants::LIST),
        route("GET",    TENANT,            any,      get(tenants::show),             tenants::SHOW),
        route("POST",   KEYS,              admin,    post(keys::create),             keys::CREATE),
        route("GET",    KEYS,              admin,    get(keys::list),                keys::LIST),
        route("GET",    KEY,               admin,    get(keys::show),                keys::SHOW),
        route("DELETE", KEY,               admin,    delete(keys::revoke),           keys::REVOKE),
        route("POST",   EVENTS,            ingest,   post(events::append),           events::APPEND),
        route("POST",   EVENTS_OF_TENANTS, gateway,  post(events::append_addressed), events::APPEND_ADDRESSED),
        route("GET",    EVENTS,            read,     get(events::query),             events::QUERY),
        route("GET",    EVENT,             read,     get(events::record),            events::RECORD),
        route("GET",    PROOF,             verify,   get(events::proof),             events::PROOF),
        route("GET",    CHECKPOINT,        verify,   get(log::checkpoint),           log::CHECKPOINT),
        route("GET",    CONSISTENCY,       verify,   get(log::consistency),          log::CONSISTENCY),
        route("GET",    TILE,              verify,   get(log::tile),                 log::TILE),
        route("POST",   VERIFY,            verify,   post(verifications::start),     verifications::START),
        route("GET",    VERIFICATION,      verify,   get(verifications::show),       verifications::SHOW),
        route("GET",    RETENTION,         retain,   get(retention::show),           retention::SHOW),
        route("PUT",    RETENTION,         retain,   put(retention::set),            retention::SET),
        route("POST",   HOLDS,             hold,     post(holds::place),             holds::PLACE),
        route("GET",    HOLDS,             hold,     get(holds::list),               holds::LIST),
        route("DELETE", HOLD,              hold,     delete(holds::release),         holds::RELEASE),
        route("POST",   ERASURES,          erase,    post(erasures::request),        erasures::REQUEST),
        route("GET",    ERASURES,          erase,    get(erasures::list),            erasures::LIST),
        route("GET",    ERASURE,           erase,    get(erasures::show),            erasures::SHOW),
        route("POST",   CLOSE,             admin,    post(tenants::close),           tenants::CLOSE),
        route("POST",   APPROVAL,          known,    post(approvals::approve),       approvals::APPROVE),
        route("POST",   COMPACTIONS,       operator, post(compactions::start),       compactions::START),
        route("GET",    COMPACTIONS,       operator, get(compactions::list),         compactions::LIST),
        route("PUT",    COMPACTIONS,       operator, put(compactions::pause),        compactions::PAUSE),
        route("GET",    COMPACTION,        operator, get(compactions::show),         compactions::SHOW),
        route("GET",    "/healthz",        nothing,  get(health::healthz),           health::HEALTHZ),
        route("GET",    "/readyz",         nothing,  get(health::readyz),            health::READYZ),
        route("GET",    METRICS,           nothing,  get(metrics::scrape),           metrics::SCRAPE),
        route("GET",    "/openapi.json",   nothing,  get(description::openapi),      description::DOCUMENT),
        route("GET",    "/docs",           nothing,  get(description::docs),         description::BROWSE),
    ]
}

/// What an orchestrator and a monitor ask. None of it needs a key or says anything of a tenant.
const TELEMETRY: [&str; 3] = ["/healthz", "/readyz", METRICS];

/// Where there is a door of its own for [`TELEMETRY`], this stands there alone.
const METRICS: &str = "/metrics";

/// The whole HTTP interface over `service`.
pub fn router(service: Service, limits: &HttpLimits) -> Router {
    with_routes(service, limits, |_| true)
}

/// The interface without metrics, and the one of the door for [`TELEMETRY`]. They share no places: an orchestrator
/// is heard while clients fill the other door.
pub(super) fn routers_apart(service: &Service, limits: &HttpLimits) -> (Router, Router) {
    let main = with_routes(service.clone(), limits, |path| path != METRICS);
    (main, with_routes(service.clone(), limits, |path| TELEMETRY.contains(&path)))
}

fn with_routes(service: Service, limits: &HttpLimits, is_wanted: impl Fn(&str) -> bool) -> Router {
    let telemetry = service.telemetry().clone();
    let app = App::new(service, limits);
    let mut router = Router::new();
    for Route { path, needs, handler, .. } in table().into_iter().filter(|route| is_wanted(route.path)) {
        router = router.route(path, handler.route_layer(from_fn_with_state((app.clone(), needs), guard)));
    }
    router
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .layer(from_fn_with_state(telemetry, identify))
        .with_state(app)
}

async fn not_found() -> Problem {
    Problem::new(ErrorCode::NotFound, "no such route")
}

async fn method_not_allowed() -> Response {
    let problem = Problem::new(ErrorCode::MethodNotAllowed, "this route has other methods; see `Allow`");
    let response = problem.into_response();
    debug_assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_health_of_the_server_is_told_without_a_key() {
        for route in table() {
            assert_eq!(route.needs == Needs::Nothing, !route.path.starts_with("/v1/"), "{}", route.path);
            if matches!(route.needs, Needs::Operator | Needs::ScopeAnywhere(_) | Needs::KnownKey) {
                assert!(!route.path.contains("{tenant}"), "{}", route.path);
            } else if route.needs != Needs::Nothing {
                // The guard finds the tenant by this name; without it every key would be the operator's.
                assert!(route.path.contains("{tenant}"), "{}", route.path);
            }
        }
    }
}
