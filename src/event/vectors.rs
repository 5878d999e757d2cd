//! The vectors under `tests/vectors/event`, held against this build.

use super::*;

#[test]
fn the_vectors_hold() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/event");
    let (mut admitted, mut refused, mut bodies) = (0, 0, 0);
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let vector = Value::read(&json::canonicalize(&std::fs::read(&path).unwrap()).unwrap()).unwrap();
        let text = |member: &str| vector.get(member).and_then(Value::as_text);
        if name.starts_with("body-") {
            bodies += 1;
            body_vector_holds(&name, &vector);
            continue;
        }
        let mut raw = match text("raw_bytes") {
            Some(bytes) => {
                base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, bytes).unwrap()
            }
            None => text("raw").unwrap().as_bytes().to_vec(),
        };
        if let Some(count) = vector.get("pad").and_then(Value::as_number) {
            let end = raw.len() - 2;
            raw.splice(end..end, std::iter::repeat_n(b'x', usize::try_from(count).unwrap()));
        }
        let parse = if vector.get("own").is_some() { Event::parse_own } else { Event::parse };
        match (parse(&raw), text("kind")) {
            (Ok(event), None) => {
                admitted += 1;
                let canonical = String::from_utf8(event.canonical()).unwrap();
                assert_eq!(canonical, text("canonical").unwrap_or(&canonical), "{name}");
            }
            (Err(invalid), Some(kind)) => {
                refused += 1;
                assert_eq!(
                    (invalid.kind.name(), Some(invalid.pointer.as_str())),
                    (kind, text("pointer")),
                    "{name}"
                );
            }
            (parsed, kind) => panic!("{name}: {parsed:?}, {kind:?}"),
        }
    }
    // An empty or half-read folder must not pass.
    assert!(admitted >= 15 && refused >= 80 && bodies >= 19, "{admitted} {refused} {bodies}");
}

fn body_vector_holds(name: &str, vector: &Value) {
    let text = |value: &Value, member: &str| value.get(member).and_then(Value::as_text).map(str::to_owned);
    let disclosures =
        vector.get("disclosures").and_then(Value::as_list).unwrap().iter().map(|one| Disclosure {
            path: text(one, "path").unwrap(),
            salt: one.get("salt").and_then(Value::as_bytes).unwrap(),
            value: text(one, "value").unwrap().into_bytes(),
        });
    let body = Body {
        salt: vector.get("salt").and_then(Value::as_bytes).unwrap(),
        canonical: text(vector, "event").unwrap().into_bytes(),
        disclosures: disclosures.collect(),
    };
    let found = match body.check() {
        Ok(()) => None,
        Err(BodyFault::Event(invalid) | BodyFault::Disclosure(invalid)) => {
            Some((invalid.kind.name(), invalid.pointer))
        }
        Err(BodyFault::NoMarker { path }) => Some(("no_marker", path)),
        Err(BodyFault::Twice { path }) => Some(("twice", path)),
        Err(BodyFault::NotCommitted { path }) => Some(("disclosure", path)),
        Err(BodyFault::Encoding(what)) => panic!("{what}"),
    };
    let kind = text(vector, "kind");
    assert_eq!(
        found.as_ref().map(|(kind, path)| (*kind, Some(path.clone()))),
        kind.as_deref().map(|kind| (kind, text(vector, "pointer"))),
        "{name}"
    );
    if found.is_some() {
        return;
    }
    assert_eq!(vector.get("event_hash").and_then(Value::as_bytes), Some(body.event_hash().0), "{name}");
    if let Some(opened) = text(vector, "opened") {
        assert_eq!(String::from_utf8(body.open().unwrap()).unwrap(), opened, "{name}");
    }
    if let Some(encoded) = text(vector, "encoded") {
        let bytes =
            base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, encoded).unwrap();
        assert_eq!(Body::decode(&bytes).unwrap(), (body.clone(), bytes.len()), "{name}");
    }
    let withheld = vector.get("withheld").and_then(Value::as_list).unwrap_or_default();
    assert_eq!(
        body.withheld().unwrap(),
        withheld.iter().filter_map(Value::as_text).collect::<Vec<_>>(),
        "{name}"
    );
}
