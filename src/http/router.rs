//! Every route, as a table: method, path, what the caller needs, handler.

use axum::Router;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post};

use super::App;
use super::answer::identify;
use super::auth::{Needs, guard};
use super::error::Problem;
use super::routes::{events, health, keys, log, metrics, tenants};
use crate::service::{ErrorCode, Scope, Service};

/// One line of the table.
struct Route {
    path: &'static str,
    needs: Needs,
    handler: MethodRouter<App>,
}

const TENANTS: &str = "/v1/tenants";
const TENANT: &str = "/v1/tenants/{tenant}";
const KEYS: &str = "/v1/tenants/{tenant}/keys";
const KEY: &str = "/v1/tenants/{tenant}/keys/{id}";
const EVENTS: &str = "/v1/tenants/{tenant}/events";
const EVENT: &str = "/v1/tenants/{tenant}/events/{index}";
const PROOF: &str = "/v1/tenants/{tenant}/events/{index}/proof";
const CHECKPOINT: &str = "/v1/tenants/{tenant}/log/checkpoint";
const CONSISTENCY: &str = "/v1/tenants/{tenant}/log/consistency";

#[rustfmt::skip]
fn table() -> Vec<Route> {
    let route = |path, needs, handler| Route { path, needs, handler };
    let scope = Needs::Scope;
    let admin = Needs::ScopeOrOperator(Scope::Admin);
    vec![
        route(TENANTS,     Needs::Operator,         post(tenants::create)),
        route(TENANTS,     Needs::Operator,         get(tenants::list)),
        route(TENANT,      Needs::AnyKeyOrOperator, get(tenants::show)),
        route(KEYS,        admin,                   post(keys::create)),
        route(KEYS,        admin,                   get(keys::list)),
        route(KEY,         admin,                   get(keys::show)),
        route(KEY,         admin,                   delete(keys::revoke)),
        route(EVENTS,      scope(Scope::Ingest),    post(events::append)),
        route(EVENTS,      scope(Scope::Read),      get(events::query)),
        route(EVENT,       scope(Scope::Read),      get(events::record)),
        route(PROOF,       scope(Scope::Verify),    get(events::proof)),
        route(CHECKPOINT,  scope(Scope::Verify),    get(log::checkpoint)),
        route(CONSISTENCY, scope(Scope::Verify),    get(log::consistency)),
        route("/healthz",  Needs::Nothing,          get(health::healthz)),
        route("/readyz",   Needs::Nothing,          get(health::readyz)),
        route("/metrics",  Needs::Nothing,          get(metrics::scrape)),
    ]
}

/// The whole HTTP interface over `service`.
pub fn router(service: Service) -> Router {
    let telemetry = service.telemetry().clone();
    let app = App::new(service);
    let mut router = Router::new();
    for Route { path, needs, handler } in table() {
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
            if route.needs == Needs::Operator {
                assert!(!route.path.contains("{tenant}"), "{}", route.path);
            } else if route.needs != Needs::Nothing {
                // The guard finds the tenant by this name; without it every key would be the operator's.
                assert!(route.path.contains("{tenant}"), "{}", route.path);
            }
        }
    }
}
