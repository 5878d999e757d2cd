//! Who may do what, case by case: every route of the description × every kind of key × own, foreign, missing and
//! Varve's own tenant. What is expected is worked out here, from the words of the contract, not from the guard.

use std::time::Duration;

use serde_json::{Value, json};

use crate::server::{Answer, Server};

/// The contract's column "scope". A route that stands in the description and not here has no rule, and fails.
const RULES: &[(&str, &str, &str)] = &[
    ("POST", "/v1/tenants", "operator"),
    ("GET", "/v1/tenants", "operator"),
    ("GET", "/v1/tenants/{tenant}", "any|operator"),
    ("POST", "/v1/tenants/{tenant}/keys", "admin|operator"),
    ("GET", "/v1/tenants/{tenant}/keys", "admin|operator"),
    ("GET", "/v1/tenants/{tenant}/keys/{id}", "admin|operator"),
    ("DELETE", "/v1/tenants/{tenant}/keys/{id}", "admin|operator"),
    ("POST", "/v1/tenants/{tenant}/events", "ingest"),
    ("POST", "/v1/events", "ingest*"),
    ("GET", "/v1/tenants/{tenant}/events", "read"),
    ("GET", "/v1/tenants/{tenant}/events/{index}", "read"),
    ("GET", "/v1/tenants/{tenant}/events/{index}/proof", "verify"),
    ("GET", "/v1/tenants/{tenant}/log/checkpoint", "verify"),
    ("GET", "/v1/tenants/{tenant}/log/consistency", "verify"),
    ("GET", "/v1/tenants/{tenant}/log/tile/{tile}", "verify"),
    ("POST", "/v1/tenants/{tenant}/verify", "verify"),
    ("GET", "/v1/tenants/{tenant}/verify/{id}", "verify"),
    ("GET", "/v1/tenants/{tenant}/retention", "retention"),
    ("PUT", "/v1/tenants/{tenant}/retention", "retention"),
    ("POST", "/v1/tenants/{tenant}/holds", "hold"),
    ("GET", "/v1/tenants/{tenant}/holds", "hold"),
    ("DELETE", "/v1/tenants/{tenant}/holds/{id}", "hold"),
    ("POST", "/v1/tenants/{tenant}/erasures", "erase"),
    ("GET", "/v1/tenants/{tenant}/erasures", "erase"),
    ("GET", "/v1/tenants/{tenant}/erasures/{id}", "erase"),
    ("POST", "/v1/tenants/{tenant}/close", "admin|operator"),
    ("POST", "/v1/approvals/{id}", "any*"),
    ("POST", "/v1/compactions", "operator"),
    ("GET", "/v1/compactions", "operator"),
    ("PUT", "/v1/compactions", "operator"),
    ("GET", "/v1/compactions/{id}", "operator"),
    ("GET", "/healthz", "-"),
    ("GET", "/readyz", "-"),
    ("GET", "/metrics", "-"),
    ("GET", "/openapi.json", "-"),
    ("GET", "/docs", "-"),
];

const SCOPES: [&str; 8] = ["admin", "ingest", "read", "verify", "export", "retention", "hold", "erase"];

/// Whose key, and what it may.
#[derive(Clone)]
enum Kind {
    /// No key, or one that is not taken: malformed, unknown, wrong secret, revoked, expired.
    Nobody,
    Operator,
    Of(&'static str, Vec<&'static str>),
}

struct Key {
    name: String,
    kind: Kind,
    text: Option<String>,
}

#[derive(PartialEq, Eq, Debug)]
enum Expected {
    Unauthenticated,
    NotFound,
    Forbidden,
    /// It passes: what is refused then is the request, not the caller.
    Passes,
}

/// The contract, in words: a key is of one tenant; another tenant and a missing one are the same; the operator
/// manages and does not read, but for Varve's own log; nobody writes into that; a gateway's key appends to all.
fn expected(needs: &str, kind: &Kind, tenant: Option<&str>) -> Expected {
    if needs == "-" {
        return Expected::Passes;
    }
    let or_forbidden = |may: bool| if may { Expected::Passes } else { Expected::Forbidden };
    let exists = |tenant: &str| tenant != "nobody";
    match (kind, tenant) {
        (Kind::Nobody, _) => Expected::Unauthenticated,
        // What it may do is told by the act that it names: of one that does not wait nothing is said.
        _ if needs == "any*" => Expected::Passes,
        (Kind::Operator, None) => or_forbidden(needs == "operator"),
        (Kind::Of(_, scopes), None) => or_forbidden(needs == "ingest*" && scopes.contains(&"ingest")),
        (Kind::Operator, Some(tenant)) => match needs {
            "any|operator" | "admin|operator" if exists(tenant) => Expected::Passes,
            "any|operator" | "admin|operator" => Expected::NotFound,
            "ingest" => Expected::Forbidden,
            _ => or_forbidden(tenant == "_system"),
        },
        (Kind::Of("_system", scopes), Some(tenant)) if needs == "ingest" && scopes.contains(&"ingest") => {
            match tenant {
                "_system" => Expected::Forbidden,
                tenant if exists(tenant) => Expected::Passes,
                _ => Expected::NotFound,
            }
        }
        (Kind::Of(own, _), Some(tenant)) if *own != tenant => Expected::NotFound,
        (Kind::Of(_, scopes), Some(_)) => match needs {
            "any|operator" => Expected::Passes,
            "admin|operator" => or_forbidden(scopes.contains(&"admin")),
            scope => or_forbidden(scopes.contains(&scope)),
        },
    }
}

fn keys(server: &Server) -> Vec<Key> {
    let mut keys = Vec::new();
    let mut add = |name: &str, kind: Kind, text: Option<String>| {
        keys.push(Key { name: name.to_owned(), kind, text });
    };
    add("none", Kind::Nobody, None);
    add("malformed", Kind::Nobody, Some("varve_no_key".to_owned()));
    add("operator", Kind::Operator, Some(server.operator.clone()));
    for scope in SCOPES {
        add(scope, Kind::Of("acme", vec![scope]), Some(server.key(&[scope])));
    }
    add("all of acme", Kind::Of("acme", SCOPES.to_vec()), Some(server.key(&SCOPES)));
    add("all of globex", Kind::Of("globex", SCOPES.to_vec()), Some(server.key_of("globex", &SCOPES)));
    add("gateway", Kind::Of("_system", vec!["ingest"]), Some(server.key_of("_system", &["ingest"])));
    add(
        "auditor",
        Kind::Of("_system", vec!["read", "verify"]),
        Some(server.key_of("_system", &["read", "verify"])),
    );

    let revoked = server.key(&SCOPES);
    // The id of one key and the secret of another.
    let (other, mut crossed) = (server.key(&SCOPES), revoked.clone());
    crossed.replace_range(6..22, &other[6..22]);
    add("a wrong secret", Kind::Nobody, Some(crossed));
    let path = format!("/v1/tenants/acme/keys/{}", &revoked[6..22]);
    let bearer = format!("Authorization: Bearer {}\r\n", server.operator);
    assert_eq!(server.ask("DELETE", &path, &bearer, "").status, 204);
    add("revoked", Kind::Nobody, Some(revoked));
    let soon = chrono::Utc::now() + Duration::from_millis(1500);
    let wanted = json!({"name": "short", "scopes": SCOPES, "expires_at": soon.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)}).to_string();
    let expired = server.post("/v1/tenants/acme/keys", &server.operator, &wanted).json();
    add("expired", Kind::Nobody, Some(expired["key"].as_str().unwrap().to_owned()));
    std::thread::sleep(Duration::from_secs(2));
    keys
}

fn path_of(template: &str, tenant: &str) -> String {
    let path = template.replace("{tenant}", tenant).replace("{index}", "0").replace("{id}", "no-such-id");
    path.replace("{tile}", "0/000.p/1")
}

fn check(answer: &Answer, expected: &Expected, case: &str) {
    match expected {
        Expected::Unauthenticated => assert_eq!(answer.code(), "unauthenticated", "{case}"),
        Expected::Forbidden => assert_eq!(answer.code(), "forbidden", "{case}"),
        Expected::NotFound => {
            assert_eq!(answer.code(), "not_found", "{case}");
            assert!(answer.body.contains("no such tenant"), "{case}: {}", answer.body);
        }
        Expected::Passes => {
            assert!(!matches!(answer.status, 401 | 403), "{case}: {}", answer.body);
            assert!(!answer.body.contains("no such tenant"), "{case}: {}", answer.body);
            assert!(answer.status < 500, "{case}: {}", answer.body);
        }
    }
}

#[test]
fn every_route_with_every_key_on_every_tenant() {
    let server = Server::start();
    assert_eq!(server.post("/v1/tenants", &server.operator, "{\"tenant\":\"globex\"}").status, 201);
    let description = server.ask("GET", "/openapi.json", "", "").json();
    let keys = keys(&server);
    let mut cases = 0;
    for (path, methods) in description["paths"].as_object().unwrap() {
        for (method, about) in methods.as_object().unwrap() {
            let method = method.to_uppercase();
            let rule = RULES.iter().find(|(ruled, at, _)| *ruled == method && at == path);
            let (_, _, needs) = rule.unwrap_or_else(|| panic!("{method} {path} has no rule: say who may"));
            assert_eq!(about["x-varve-needs"], Value::from(*needs), "{method} {path}");
            let tenants: &[&str] =
                if path.contains("{tenant}") { &["acme", "globex", "nobody", "_system"] } else { &["-"] };
            for tenant in tenants {
                for key in &keys {
                    let named = path.contains("{tenant}").then_some(*tenant);
                    // A body that is refused, so that what passes changes nothing.
                    let body = if method == "POST" { "{}" } else { "" };
                    let bearer = key
                        .text
                        .as_ref()
                        .map_or(String::new(), |text| format!("Authorization: Bearer {text}\r\n"));
                    let headers = format!("{bearer}Content-Type: application/json\r\n");
                    let answer = server.ask(&method, &path_of(path, tenant), &headers, body);
                    let case = format!("{method} {path}, tenant {tenant}, key {}", key.name);
                    check(&answer, &expected(needs, &key.kind, named), &case);
                    cases += 1;
                }
            }
        }
    }
    let described: usize = description["paths"]
        .as_object()
        .unwrap()
        .values()
        .map(|methods| methods.as_object().unwrap().len())
        .sum();
    assert_eq!(described, RULES.len(), "a rule without a route");
    assert!(cases >= 1000, "{cases} cases");
    // Nothing that was asked changed anything.
    let info = server.get("/v1/tenants/acme", &server.operator).json();
    assert_eq!(info["size"], 1, "{info}");
}

/// Asks to approve, and checks what a key that may not see the approval is told.
fn sees_no_approval(server: &Server, key: &str, path: &str) {
    let answer = server.post(path, key, "");
    assert_eq!(answer.code(), "not_found", "{}", answer.body);
    assert!(!answer.body.contains("acme"), "{}", answer.body);
    let unknown = server.post("/v1/approvals/0123456789abcdef", key, "");
    let told = |answer: &Answer| (answer.status, answer.json()["detail"].clone());
    assert_eq!(told(&answer), told(&unknown), "one that is another's and one that is not are the same");
}

fn approval(answer: &Answer) -> String {
    assert_eq!(answer.status, 202, "{}", answer.body);
    let approval = &answer.json()["approval"];
    assert_eq!((&approval["state"], &approval["tenant"]), (&json!("pending"), &json!("acme")));
    format!("/v1/approvals/{}", approval["id"].as_str().unwrap())
}

#[test]
fn an_approval_is_for_another_key_of_the_tenant_with_the_scope() {
    let server = Server::start();
    assert_eq!(server.post("/v1/tenants", &server.operator, "{\"tenant\":\"globex\"}").status, 201);
    let (asks, approves) = (server.key(&["hold"]), server.key(&["hold"]));
    let without: Vec<&str> = SCOPES.into_iter().filter(|scope| *scope != "hold").collect();
    let without = server.key(&without);
    let all_of_globex = server.key_of("globex", &SCOPES);
    let auditor = server.key_of("_system", &SCOPES);

    let holds = "/v1/tenants/acme/holds";
    let placed = server.post(holds, &asks, r#"{"reason":"a case","tenant":true}"#);
    assert_eq!(placed.status, 201, "{}", placed.body);
    let hold = format!("{holds}/{}", placed.json()["id"].as_str().unwrap());
    let bearer = |key: &str| format!("Authorization: Bearer {key}\r\n");
    let path = approval(&server.ask("DELETE", &hold, &bearer(&asks), ""));
    sees_no_approval(&server, &all_of_globex, &path);
    sees_no_approval(&server, &auditor, &path);
    sees_no_approval(&server, &server.operator, &path);
    for key in [&asks, &without] {
        let answer = server.post(&path, key, "");
        assert_eq!((answer.code().as_str(), answer.status), ("forbidden", 403), "{}", answer.body);
    }
    let in_force = || server.get(holds, &asks).json()["holds"].as_array().unwrap().len();
    assert_eq!(in_force(), 1, "who may not approve has changed nothing");
    // Who may make keys is not two by making another.
    let made_since = server.key(&["hold"]);
    assert_eq!(server.post(&path, &made_since, "").code(), "forbidden");
    let approved = server.post(&path, &approves, "");
    assert_eq!((approved.status, &approved.json()["approval"]["state"]), (200, &json!("approved")));
    assert_eq!(in_force(), 0);
    assert_eq!(server.post(&path, &approves, "").code(), "not_found", "it is given once");

    // The end of a log is a matter of the operator too.
    let admin = server.key(&["admin"]);
    let size = server.get("/v1/tenants/acme", &admin).json()["size"].as_u64().unwrap();
    let close = "/v1/tenants/acme/close";
    let path = approval(&server.post(close, &admin, &json!({"size": size}).to_string()));
    sees_no_approval(&server, &all_of_globex, &path);
    assert_eq!(server.post(&path, &approves, "").code(), "forbidden", "a key of acme without `admin`");
    assert_eq!(server.post(&path, &server.operator, "").status, 200);
    assert_eq!(server.post(close, &admin, &json!({"size": size + 2}).to_string()).code(), "gone");
}

#[test]
fn another_method_and_another_path_are_refused_before_the_key_is_looked_at() {
    let server = Server::start();
    for (method, path, code) in [
        ("PATCH", "/v1/tenants/acme/events", "method_not_allowed"),
        ("DELETE", "/v1/tenants/acme/events/0", "method_not_allowed"),
        ("PUT", "/v1/tenants/acme/events/0", "method_not_allowed"),
        ("GET", "/v1/tenants/acme/events/", "not_found"),
        ("GET", "/v1/tenants/acme/../globex/events", "not_found"),
        ("GET", "/v2/tenants", "not_found"),
    ] {
        assert_eq!(server.ask(method, path, "", "").code(), code, "{method} {path}");
    }
}
