//! The description of the interface, OpenAPI 3.1, made from the table of routes and the types on the wire.
//!
//! A route cannot stand in the table without an [`Operation`]; `docs/openapi.json` is what this makes, and a test
//! holds the two together.

mod page;
mod schemas;

pub(crate) use page::PAGE;
pub(crate) use schemas::{AnyEvent, AnyRecord};

use std::collections::BTreeSet;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::auth::Needs;
use super::error::ProblemView;
use super::router::Route;
use crate::service::ErrorCode;

/// Makes the schema of a type.
pub(crate) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// The schema of `T`.
pub(crate) fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// The properties of `T`, which reads query parameters.
pub(crate) fn parameters<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    T::json_schema(generator)
}

/// What a route does, takes and answers.
pub(crate) struct Operation {
    pub(crate) id: &'static str,
    pub(crate) summary: &'static str,
    /// Query parameters: the properties of the type that reads them.
    pub(crate) query: Option<SchemaOf>,
    /// Whether `Idempotency-Key` is read.
    pub(crate) takes_idempotency_key: bool,
    /// Bodies, by media type.
    pub(crate) bodies: &'static [(&'static str, SchemaOf)],
    /// Answers that are no refusals.
    pub(crate) answers: &'static [(u16, &'static str, Content)],
    /// Codes that do not follow from the rest.
    pub(crate) refusals: &'static [ErrorCode],
}

/// The body of an answer.
#[derive(Clone, Copy)]
pub(crate) enum Content {
    Nothing,
    Json(SchemaOf),
    /// Text of this media type.
    Text(&'static str),
    Bytes,
}

/// An operation with nothing in it, to be completed.
pub(crate) const BARE: Operation = Operation {
    id: "",
    summary: "",
    query: None,
    takes_idempotency_key: false,
    bodies: &[],
    answers: &[],
    refusals: &[],
};

/// The media types of bodies.
pub(crate) const JSON: &str = "application/json";
pub(crate) const NDJSON: &str = "application/x-ndjson";
pub(crate) const PLAIN: &str = "text/plain; charset=utf-8";

/// The whole document.
pub(crate) fn document(table: &[Route]) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let problem = of::<ProblemView<'static>>(&mut generator);
    let mut paths = Map::new();
    for route in table {
        // The router's mark of "the rest of the path" is none of OpenAPI's.
        let path = paths.entry(route.path.replace("{*", "{")).or_insert_with(|| json!({}));
        path[route.method.to_lowercase()] = operation(route, &problem, &mut generator);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Varve",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "Append-only audit-log store: hash-chained, signed, verifiable offline",
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": generator.take_definitions(true),
            "securitySchemes": {"key": {
                "type": "http", "scheme": "bearer", "bearerFormat": "varve_<id>_<secret><checksum>",
            }},
            "headers": {
                "X-Request-Id": {
                    "description": "Names this request; the client's own where it sent a sane one.",
                    "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"},
                },
                "Retry-After": {
                    "description": "Whole seconds until the same request may succeed.",
                    "schema": {"type": "integer", "minimum": 1},
                },
            },
        },
    })
}

fn operation(route: &Route, problem: &Schema, generator: &mut SchemaGenerator) -> Value {
    let about = &route.about;
    let mut parameters = path_parameters(route.path);
    if let Some(query) = about.query {
        parameters.extend(query_parameters(&query(generator).to_value()));
    }
    if about.takes_idempotency_key {
        parameters.push(json!({
            "name": "Idempotency-Key", "in": "header", "required": false,
            "description": "The `id` of a single event, quotes optional.",
            "schema": {"type": "string", "pattern": "^(\"[A-Za-z0-9._:/-]{1,128}\"|[A-Za-z0-9._:/-]{1,128})$"},
        }));
    }
    let mut made = json!({
        "operationId": about.id,
        "summary": about.summary,
        "x-varve-needs": needs_text(route.needs),
        "parameters": parameters,
        "responses": responses(route, problem, generator),
    });
    if route.needs != Needs::Nothing {
        made["security"] = json!([{"key": []}]);
    }
    if !about.bodies.is_empty() {
        let content: Map<String, Value> = about
            .bodies
            .iter()
            .map(|(media, schema)| ((*media).to_owned(), json!({"schema": schema(generator)})))
            .collect();
        made["requestBody"] = json!({"required": true, "content": content});
    }
    made
}

/// What the caller needs, as one word: `-`, a scope, a scope or the operator, any key of the tenant.
fn needs_text(needs: Needs) -> String {
    match needs {
        Needs::Nothing => "-".to_owned(),
        Needs::Operator => "operator".to_owned(),
        Needs::Scope(scope) => scope.name().to_owned(),
        Needs::ScopeOrOperator(scope) => format!("{}|operator", scope.name()),
        Needs::AnyKeyOrOperator => "any|operator".to_owned(),
        Needs::KnownKey => "any*".to_owned(),
        Needs::ScopeAnywhere(scope) => format!("{}*", scope.name()),
    }
}

fn path_parameters(path: &str) -> Vec<Value> {
    let names = path.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'));
    let one = |name: &str| {
        let (description, schema) = match name {
            "tenant" => {
                ("A tenant's name.", json!({"type": "string", "pattern": "^_?[a-z0-9][a-z0-9._-]{0,62}$"}))
            }
            "index" => (
                "A leaf index, from 0.",
                json!({"type": "integer", "minimum": 0, "maximum": 1_099_511_627_775_u64}),
            ),
            "tile" => (
                "`<L>/<N>[.p/<W>]` or `entries/<N>[.p/<W>]`.",
                json!({"type": "string", "pattern": r"^([0-7]|entries)/(x[0-9]{3}/){0,5}[0-9]{3}(\.p/[1-9][0-9]{0,2})?$"}),
            ),
            _ => (
                "What was answered when it was made.",
                json!({"type": "string", "pattern": "^[a-z0-9-]{1,64}$"}),
            ),
        };
        json!({"name": name, "in": "path", "required": true, "description": description, "schema": schema})
    };
    names.map(|name| one(name.trim_start_matches('*'))).collect()
}

fn query_parameters(schema: &Value) -> Vec<Value> {
    let required: BTreeSet<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let properties = schema["properties"].as_object().into_iter().flatten();
    properties
        .map(|(name, schema)| {
            let mut schema = schema.clone();
            let description = schema.as_object_mut().and_then(|members| members.remove("description"));
            json!({"name": name, "in": "query", "required": required.contains(name.as_str()),
                "description": description, "schema": schema})
        })
        .collect()
}

fn responses(route: &Route, problem: &Schema, generator: &mut SchemaGenerator) -> Value {
    let mut responses = Map::new();
    let request_id = json!({"$ref": "#/components/headers/X-Request-Id"});
    for (status, description, content) in route.about.answers {
        let mut answer = json!({"description": description, "headers": {"X-Request-Id": request_id}});
        match content {
            Content::Nothing => {}
            Content::Json(schema) => answer["content"] = json!({JSON: {"schema": schema(generator)}}),
            Content::Text(media) => answer["content"] = json!({*media: {"schema": {"type": "string"}}}),
            Content::Bytes => answer["content"] = json!({"application/octet-stream": {}}),
        }
        responses.insert(status.to_string(), answer);
    }
    let mut by_status: std::collections::BTreeMap<u16, Vec<&str>> = std::collections::BTreeMap::new();
    for code in codes(route) {
        by_status.entry(code.status()).or_default().push(code.as_str());
    }
    for (status, codes) in by_status {
        let mut headers = json!({"X-Request-Id": request_id});
        if matches!(status, 429 | 503 | 507) {
            headers["Retry-After"] = json!({"$ref": "#/components/headers/Retry-After"});
        }
        responses.insert(
            status.to_string(),
            json!({
                "description": codes.join(", "),
                "headers": headers,
                "content": {"application/problem+json": {"schema": problem}},
            }),
        );
    }
    Value::Object(responses)
}

/// What a route may refuse with: what follows from its path, its caller and its body, and what it names itself.
fn codes(route: &Route) -> Vec<ErrorCode> {
    let mut codes = route.about.refusals.to_vec();
    let about = &route.about;
    // A request whose head cannot be read is refused before any route is found; so is another method.
    codes.extend([ErrorCode::BadRequest, ErrorCode::MethodNotAllowed]);
    if route.needs != Needs::Nothing {
        codes.extend([
            ErrorCode::Unauthenticated,
            ErrorCode::Forbidden,
            ErrorCode::Busy,
            ErrorCode::Internal,
        ]);
    }
    if route.path.contains('{') {
        codes.push(ErrorCode::NotFound);
    }
    if !about.bodies.is_empty() {
        codes.extend([ErrorCode::TooLarge, ErrorCode::UnsupportedMediaType]);
    }
    codes.sort_by_key(|code| (code.status(), code.as_str()));
    codes.dedup();
    codes
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "docs/openapi.json";

    #[test]
    fn the_document_in_the_repository_is_what_the_code_makes() {
        let made = serde_json::to_string_pretty(&document(&super::super::router::table())).unwrap() + "\n";
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(PATH);
        if std::env::var_os("VARVE_WRITE_OPENAPI").is_some() {
            std::fs::write(&path, &made).unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            kept == made,
            "{PATH} is stale\nhint: VARVE_WRITE_OPENAPI=1 cargo test --lib http::openapi writes it anew; look at the difference"
        );
    }

    #[test]
    fn every_operation_is_named_once_and_says_what_it_does() {
        let mut names = BTreeSet::new();
        for route in super::super::router::table() {
            let about = &route.about;
            assert!(names.insert(about.id), "{} stands twice", about.id);
            assert!(about.summary.ends_with('.') && !about.answers.is_empty(), "{}", about.id);
        }
    }
}
