//! Properties of the whole room, against a second, slow writer of canonical form.

use proptest::prelude::*;

use super::canonical::Reader;
use super::*;

/// A JSON value as the tests see it.
#[derive(Clone, Debug)]
enum Json {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    /// Canonical form by the letter of RFC 8785: sort by UTF-16 code units, write.
    fn canonical(&self) -> String {
        match self {
            Json::Null => "null".into(),
            Json::Bool(value) => value.to_string(),
            Json::Number(number) => ryu_js::Buffer::new().format_finite(*number).to_owned(),
            Json::Text(text) => quoted(text, false),
            Json::List(values) => format!("[{}]", join(values.iter().map(Json::canonical))),
            Json::Object(members) => {
                let mut members = members.clone();
                members.sort_by_key(|(name, _)| name.encode_utf16().collect::<Vec<_>>());
                let texts = members
                    .iter()
                    .map(|(name, value)| format!("{}:{}", quoted(name, false), value.canonical()));
                format!("{{{}}}", join(texts))
            }
        }
    }

    /// The same value with spaces, long escapes and other number spellings.
    fn wild(&self) -> String {
        match self {
            Json::Number(number) => format!("{number:e}"),
            Json::Text(text) => quoted(text, true),
            Json::List(values) => format!("[ {}\n]", join(values.iter().map(Json::wild))),
            Json::Object(members) => {
                let texts = members
                    .iter()
                    .map(|(name, value)| format!("\t{} :\r {} ", quoted(name, true), value.wild()));
                format!("{{{} }}", join(texts))
            }
            plain => plain.canonical(),
        }
    }
}

fn join(texts: impl Iterator<Item = String>) -> String {
    texts.collect::<Vec<_>>().join(",")
}

/// With `wild`, every character is escaped as `\u` that the grammar lets be.
fn quoted(text: &str, wild: bool) -> String {
    let mut out = String::from("\"");
    for character in text.chars() {
        match character {
            _ if wild => {
                character.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out += &format!("\\u{unit:04X}"))
            }
            '"' | '\\' => out.extend(['\\', character]),
            '\n' => out += "\\n",
            '\r' => out += "\\r",
            '\t' => out += "\\t",
            '\u{8}' => out += "\\b",
            '\u{c}' => out += "\\f",
            '\0'..='\u{1f}' => out += &format!("\\u{:04x}", character as u32),
            _ => out.push(character),
        }
    }
    out + "\""
}

/// Names and texts with all that makes order and escapes hard.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-c]{0,3}",
        proptest::collection::vec(
            prop_oneof![
                Just('"'),
                Just('\\'),
                Just('\0'),
                Just('\u{1f}'),
                Just('\n'),
                Just('\u{7f}'),
                Just('é'),
                Just('\u{d7ff}'),
                Just('\u{e000}'),
                Just('\u{ffff}'),
                Just('😀'),
                Just('\u{10ffff}'),
                any::<char>(),
            ],
            0..12
        )
        .prop_map(String::from_iter),
    ]
}

fn name() -> impl Strategy<Value = String> {
    text().prop_filter("reserved", |name| name != "$sealed")
}

fn distinct(members: Vec<(String, Json)>) -> Vec<(String, Json)> {
    let mut seen = std::collections::BTreeSet::new();
    members.into_iter().filter(|(name, _)| seen.insert(name.clone())).collect()
}

fn json() -> impl Strategy<Value = Json> {
    let number = prop_oneof![
        any::<i32>().prop_map(f64::from),
        (-9_007_199_254_740_991_i64..=9_007_199_254_740_991).prop_map(|integer| integer as f64),
        any::<f64>().prop_filter("range", |number| number.abs() <= 9_007_199_254_740_991.0),
        Just(-0.0),
        Just(5e-324),
    ];
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::Bool),
        number.prop_map(Json::Number),
        text().prop_map(Json::Text),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Json::List),
            proptest::collection::vec((name(), inner), 0..5)
                .prop_map(|members| Json::Object(distinct(members))),
        ]
    })
}

/// An object with some of the given text members.
fn texts(
    required: &'static [&'static str],
    optional: &'static [&'static str],
) -> impl Strategy<Value = Json> {
    let count = required.len() + optional.len();
    proptest::collection::vec((text(), any::<bool>()), count).prop_map(move |values| {
        let names = required.iter().chain(optional);
        let members =
            names.zip(values).enumerate().filter(|(place, (_, (_, keep)))| *place < required.len() || *keep);
        let mut members: Vec<_> = members
            .map(|(_, (name, (text, _)))| ((*name).to_owned(), Json::Text(format!("{text}+"))))
            .collect();
        members.reverse();
        Json::Object(members)
    })
}

/// An event that keeps the rules.
fn event() -> impl Strategy<Value = Json> {
    let some = |strategy: BoxedStrategy<Json>| proptest::option::of(strategy);
    let target = texts(&[], &["type", "id", "name"]).boxed();
    let change =
        (text(), proptest::option::of(json()), proptest::option::of(json())).prop_map(|(field, from, to)| {
            let mut members = vec![("field".to_owned(), Json::Text(field + "f"))];
            members.extend(from.map(|from| ("from".to_owned(), from)));
            members.extend(to.map(|to| ("to".to_owned(), to)));
            Json::Object(members)
        });
    let metadata =
        proptest::collection::vec((name(), json()), 0..4).prop_map(|members| Json::Object(distinct(members)));
    let parts = (
        some("[A-Za-z0-9._:/-]{1,128}".prop_map(Json::Text).boxed()),
        some("[a-z-]{1,64}".prop_map(Json::Text).boxed()),
        some(texts(&["id"], &["type", "name", "email"]).boxed()),
        some(proptest::collection::vec(target, 0..4).prop_map(Json::List).boxed()),
        some(
            texts(&[], &["ip", "user_agent", "country", "session_id", "request_id", "trace_id", "case_id"])
                .boxed(),
        ),
        some(proptest::collection::vec(change, 0..3).prop_map(Json::List).boxed()),
        some(text().prop_map(Json::Text).boxed()),
        some(metadata.boxed()),
        some((0..=Micros::MAX.0).prop_map(|micros| Json::Text(Micros(micros).to_string())).boxed()),
    );
    let action = "[a-u][a-z0-9_-]{0,4}(\\.[a-z0-9_-]{1,4}){0,3}";
    (action, parts).prop_map(
        |(action, (id, class, actor, targets, context, changes, reason, metadata, at))| {
            let mut members = vec![("outcome", Json::Text("denied".into())), ("action", Json::Text(action))];
            let optional = [
                ("id", id),
                ("class", class),
                ("actor", actor),
                ("targets", targets),
                ("context", context),
                ("changes", changes),
                ("reason", reason),
                ("metadata", metadata),
                ("occurred_at", at),
            ];
            members.extend(optional.into_iter().filter_map(|(name, value)| Some((name, value?))));
            Json::Object(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
        },
    )
}

/// Salts that differ, and are the same in each run.
fn counter() -> impl FnMut(&mut [u8]) {
    let mut next = 0_u8;
    move |salts| {
        for byte in salts {
            next = next.wrapping_add(1);
            *byte = next;
        }
    }
}

fn sealed(event: &Json) -> (Event, Body) {
    let mut event = Event::parse(event.wild().as_bytes()).unwrap();
    event.set_id("filled/in");
    event.set_class("security");
    let body = event.seal(&mut counter());
    (event, body)
}

const SAMPLE: &str = r#"{"id":"evt-1","action":"aws.kms.decrypt","outcome":"denied","occurred_at":"2024-05-01T12:00:00+02:00",
  "class":"security","producer":{"service":"kms","instance":"i-1","seq":7},
  "actor":{"type":"user","id":"ada@example.com","name":"Ada"},
  "targets":[{"type":"key","id":"k\u00e91"},{"id":"k2"},{}],
  "context":{"ip":"AWS Internal","request_id":"r \"1\""},
  "changes":[{"field":"a","from":null,"to":[1.50,-0]}],"reason":"","metadata":{"b":1e3,"a":{}}}"#;

fn sample() -> Body {
    Event::parse(SAMPLE.as_bytes()).unwrap().seal(&mut counter())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn canonical_form_is_that_of_the_rfc(value in json()) {
        let expected = value.canonical();
        prop_assert_eq!(String::from_utf8(json::canonicalize(value.wild().as_bytes()).unwrap()).unwrap(), expected.clone());
        prop_assert_eq!(json::canonicalize(expected.as_bytes()).unwrap(), expected.as_bytes());
        let mut reader = Reader::new(expected.as_bytes()).unwrap();
        reader.value(1).unwrap();
        reader.finish().unwrap();
    }

    #[test]
    fn what_is_not_canonical_is_not_read_as_such(value in json()) {
        let wild = value.wild();
        let mut reader = Reader::new(wild.as_bytes()).unwrap();
        let accepted = reader.value(1).is_ok() && reader.finish().is_ok();
        prop_assert_eq!(accepted, wild == value.canonical());
    }

    #[test]
    fn an_event_comes_back_as_it_was_sent(value in event()) {
        let submitted = Event::parse(value.wild().as_bytes()).unwrap();
        prop_assert_eq!(String::from_utf8(submitted.canonical()).unwrap(), value.canonical());
        let (event, body) = sealed(&value);
        body.check().unwrap();
        prop_assert_eq!(body.open().unwrap(), event.canonical());
        prop_assert!(body.same_content(&submitted) || submitted.id().is_some() );
        prop_assert!(body.same_content(&event));
        prop_assert_eq!(body.withheld().unwrap(), Vec::<String>::new());
        let examined = body.examine().unwrap();
        prop_assert_eq!(examined.event_hash, body.event_hash());
        prop_assert_eq!(Some(examined.class), event.class());
        prop_assert_eq!(Some(examined.id), body.id());
        // What was opened is a submission that gives the same event again.
        let again = Event::parse(&body.open().unwrap()).unwrap();
        prop_assert_eq!(again.canonical(), event.canonical());
    }

    #[test]
    fn encodings_read_back(value in event(), tail in proptest::collection::vec(any::<u8>(), 0..9)) {
        let (_, body) = sealed(&value);
        let mut bytes = Vec::new();
        body.encode(&mut bytes);
        let length = bytes.len();
        bytes.extend_from_slice(&tail);
        prop_assert_eq!(Body::decode(&bytes).unwrap(), (body, length));
        for cut in 0..length {
            prop_assert!(matches!(Body::decode(&bytes[..cut]), Err(BodyFault::Encoding(_))));
        }
    }

    #[test]
    fn withheld_values_leave_a_sound_event(value in event(), keep in any::<u64>()) {
        let (event, mut body) = sealed(&value);
        let (whole, hash) = (body.clone(), body.event_hash());
        let mut place = 0;
        body.disclosures.retain(|_| { place += 1; keep >> (place % 64) & 1 == 1 });
        body.check().unwrap();
        prop_assert_eq!(body.event_hash(), hash);
        let missing = body.withheld().unwrap();
        prop_assert_eq!(missing.len(), whole.disclosures.len() - body.disclosures.len());
        prop_assert_eq!(&body.examine().unwrap().withheld, &missing);
        prop_assert!(body.same_content(&event));
        let opened = String::from_utf8(body.open().unwrap()).unwrap();
        prop_assert_eq!(opened.matches("{\"$sealed\":").count(), missing.len());
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        never_panic(&bytes);
    }

    #[test]
    fn damaged_events_never_panic(value in event(), edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut raw = value.wild().into_bytes();
        let (_, body) = sealed(&value);
        let mut encoded = Vec::new();
        body.encode(&mut encoded);
        for (index, byte) in edits {
            let places = [index.index(raw.len()), index.index(encoded.len())];
            raw[places[0]] = byte;
            encoded[places[1]] = byte;
        }
        never_panic(&raw);
        never_panic(&encoded);
    }
}

fn never_panic(bytes: &[u8]) {
    for parse in [Event::parse, Event::parse_own] {
        match parse(bytes) {
            Ok(event) => assert_eq!(Event::parse(&event.canonical()).unwrap().canonical(), event.canonical()),
            Err(error) => assert!(error.to_string().len() < 4096),
        }
    }
    let raw = Body { salt: [0; 16], canonical: bytes.to_vec(), disclosures: Vec::new() };
    for body in [Some(raw), Body::decode(bytes).ok().map(|(body, _)| body)].into_iter().flatten() {
        let _ = (
            body.check(),
            body.open(),
            body.withheld(),
            body.facts(),
            body.occurred_at(),
            format!("{body:?}"),
        );
        terms(&body.view(), &mut |_, _| {});
    }
}

#[test]
fn every_flipped_bit_of_a_body_is_noticed() {
    let body = sample();
    let mut bytes = Vec::new();
    body.encode(&mut bytes);
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let Ok((read, length)) = Body::decode(&flipped) else { continue };
        // A count or length that shrank leaves bytes over; the page that holds the body refuses that.
        let noticed =
            length != bytes.len() || read.event_hash() != body.event_hash() || read.check().is_err();
        assert!(noticed, "bit {bit}");
        // In the disclosures a flip must not depend on the event hash to be found.
        if length == bytes.len() && read.canonical == body.canonical && read.salt == body.salt {
            assert!(read.check().is_err(), "bit {bit}");
        }
    }
}

#[test]
fn a_body_holds_no_sealed_value_in_the_clear() {
    let body = sample();
    let clear = String::from_utf8(body.canonical.clone()).unwrap();
    for hidden in ["ada@", "Ada", "k2", "AWS Internal", "\"b\"", "field"] {
        assert!(!clear.contains(hidden), "{hidden}");
        assert!(!format!("{body:?}").contains(hidden), "{hidden}");
    }
    for shown in ["\"type\":\"user\"", "\"type\":\"key\"", "\"occurred_at\":\"2024-05-01T10:00:00.000000Z\""]
    {
        assert!(clear.contains(shown), "{shown}");
    }
    let event = Event::parse(SAMPLE.as_bytes()).unwrap();
    assert_eq!(format!("{event:?}"), "Event { action: \"aws.kms.decrypt\", outcome: Denied, .. }");
}

#[test]
fn what_is_left_of_a_body_is_it_or_less_in_the_same_order() {
    let whole = sample();
    let bytes = |body: &Body| {
        let mut bytes = Vec::new();
        body.encode(&mut bytes);
        bytes
    };
    let of_whole = bytes(&whole);
    let changed = |edit: &dyn Fn(&mut Body)| {
        let mut changed = whole.clone();
        edit(&mut changed);
        left_of(&of_whole, &bytes(&changed)).map(|left| left == changed)
    };
    assert!(whole.disclosures.len() > 2);
    assert_eq!(changed(&|_| ()), Some(true));
    assert_eq!(changed(&|body| drop(body.disclosures.remove(1))), Some(true));
    assert_eq!(changed(&|body| body.disclosures.clear()), Some(true));
    assert_eq!(changed(&|body| body.salt[0] ^= 1), None);
    assert_eq!(changed(&|body| body.canonical[10] ^= 1), None);
    assert_eq!(changed(&|body| body.disclosures[0].value.push(b' ')), None);
    assert_eq!(changed(&|body| body.disclosures.reverse()), None);
    assert_eq!(changed(&|body| body.disclosures.push(body.disclosures[0].clone())), None);
    assert_eq!(changed(&|body| body.disclosures[1] = body.disclosures[0].clone()), None);
    let behind = [of_whole.as_slice(), &[0]].concat();
    assert_eq!(left_of(&of_whole, &behind), None);
    assert_eq!(left_of(&behind, &of_whole), None);
    assert_eq!(left_of(&of_whole, &[]), None);
}

#[test]
fn disclosures_are_matched_to_markers() {
    let body = sample();
    let change = |edit: &dyn Fn(&mut Vec<Disclosure>)| {
        let mut changed = body.clone();
        edit(&mut changed.disclosures);
        changed.check().unwrap_err()
    };
    let path = |path: &str| path.to_owned();
    assert_eq!(change(&|all| all[0].salt[0] ^= 1), BodyFault::NotCommitted { path: path("/actor") });
    assert_eq!(change(&|all| all.push(all[0].clone())), BodyFault::Twice { path: path("/actor") });
    assert_eq!(
        change(&|all| all[0].path = path("/targets/3")),
        BodyFault::NoMarker { path: path("/targets/3") }
    );
    assert_eq!(change(&|all| all[0].path = path("/outcome")), BodyFault::NoMarker { path: path("/outcome") });
    assert!(matches!(
        change(&|all| all[0].value.push(b' ')),
        BodyFault::Disclosure(InvalidEvent { kind: InvalidKind::NotCanonical, .. })
    ));
    let fault = change(&|all| all[0].value = br#"{"id":""}"#.to_vec());
    let BodyFault::Disclosure(invalid) = &fault else { panic!("{fault}") };
    assert_eq!((invalid.kind, invalid.pointer.as_str()), (InvalidKind::BadLength, "/actor/id"));
    // Two targets that change places: the path is part of what is committed to.
    let swapped = change(&|all| {
        let places: Vec<_> = all
            .iter()
            .enumerate()
            .filter(|(_, one)| one.path.starts_with("/targets"))
            .map(|(at, _)| at)
            .collect();
        let (first, second) = (all[places[0]].path.clone(), all[places[1]].path.clone());
        (all[places[0]].path, all[places[1]].path) = (second, first);
    });
    assert!(matches!(swapped, BodyFault::NotCommitted { .. }));
    // The order is free.
    let mut reversed = body.clone();
    reversed.disclosures.reverse();
    reversed.check().unwrap();
    assert_eq!(reversed.open(), body.open());
}

#[test]
fn the_same_content_may_come_without_what_was_filled_in() {
    let parse = |text: &str| Event::parse(text.as_bytes()).unwrap();
    let mut first = parse(r#"{"id":"a","action":"x","outcome":"success","reason":"r"}"#);
    first.set_class("security");
    let mut body = first.seal(&mut counter());
    for same in [
        r#"{"id":"a","action":"x","outcome":"success","reason":"r"}"#,
        r#"{"reason":"\u0072","id":"a","action":"x","outcome":"success","class":"security"}"#,
        r#"{"action":"x","outcome":"success","reason":"r"}"#,
    ] {
        assert!(body.same_content(&parse(same)), "{same}");
    }
    let mut filled = parse(r#"{"action":"x","outcome":"success","reason":"r"}"#);
    filled.set_id("another");
    filled.set_class("processing");
    assert!(body.same_content(&filled));
    for other in [
        r#"{"id":"a","action":"x","outcome":"success","reason":"s"}"#,
        r#"{"id":"a","action":"x","outcome":"success"}"#,
        r#"{"id":"b","action":"x","outcome":"success","reason":"r"}"#,
        r#"{"id":"a","action":"x","outcome":"failure","reason":"r"}"#,
        r#"{"id":"a","action":"x","outcome":"success","reason":"r","class":"processing"}"#,
        r#"{"id":"a","action":"x","outcome":"success","reason":"r","metadata":{}}"#,
    ] {
        assert!(!body.same_content(&parse(other)), "{other}");
    }
    // After erasure the id alone decides.
    body.disclosures.clear();
    assert!(body.same_content(&parse(r#"{"id":"a","action":"y","outcome":"failure"}"#)));
    assert!(!body.same_content(&parse(r#"{"id":"b","action":"x","outcome":"success","reason":"r"}"#)));
}

#[test]
fn what_is_there_is_not_filled_in() {
    let mut event = Event::parse(br#"{"id":"a","class":"c","action":"x","outcome":"success"}"#).unwrap();
    event.set_id("b");
    event.set_class("d");
    assert_eq!((event.id(), event.class()), (Some("a"), Some("c")));
    assert!(is_id("a:b/C._-9") && !is_id("") && !is_id("é") && !is_id("a b") && !is_id(&"a".repeat(129)));
    assert!(is_class("a-1") && !is_class("") && !is_class("A") && !is_class(&"a".repeat(65)));
}

#[test]
fn terms_are_what_an_event_can_be_found_by() {
    let mut found = Vec::new();
    let mut body = sample();
    terms(&body.view(), &mut |field, value| found.push((field, String::from_utf8(value.to_vec()).unwrap())));
    found.sort();
    let mut examined = Vec::new();
    let mut visit = |field, value: &[u8]| examined.push((field, String::from_utf8(value.to_vec()).unwrap()));
    body.view().examine_with(&[], &mut visit).unwrap();
    examined.sort();
    assert_eq!(examined, found);
    let expected = [
        (Field::Actor, "ada@example.com"),
        (Field::Action, "aws.kms.decrypt"),
        (Field::ActionPrefix, "aws."),
        (Field::ActionPrefix, "aws.kms."),
        (Field::Target, "k2"),
        (Field::Target, "ké1"),
        (Field::Outcome, "denied"),
        (Field::Ip, "AWS Internal"),
        (Field::Class, "security"),
        (Field::RequestId, "r \"1\""),
        (Field::Id, "evt-1"),
    ];
    assert_eq!(found, expected.map(|(field, value)| (field, value.to_owned())));
    body.disclosures.clear();
    let mut count = 0;
    terms(&body.view(), &mut |_, _| count += 1);
    assert_eq!(count, 6);
}

#[test]
fn tokens_differ_by_key_field_and_value() {
    let first = token(&[1; 32], Field::Actor, b"ada");
    let whole = blake3::keyed_hash(&[1; 32], b"\x01ada");
    assert_eq!(first, whole.as_bytes()[..16]);
    assert_ne!(first, token(&[2; 32], Field::Actor, b"ada"));
    assert_ne!(first, token(&[1; 32], Field::Target, b"ada"));
    assert_ne!(first, token(&[1; 32], Field::Actor, b"adb"));
    assert!((0..=255).filter_map(Field::from_code).eq(Field::ALL));
}

#[test]
fn own_events_carry_clear_facts() {
    let mut event = Builder::new(catalog::action::LOG_CREATED, Outcome::Success)
        .fact("origin", "i.example/acme")
        .fact("nonce", Value::bytes(&[9; 32]))
        .fact("names", vec![Value::from("a"), Value::from("b")])
        .fact("size", 7u64)
        .fact("is_new", true)
        .actor("operator", "line\n\"quote\"")
        .target("log", "acme")
        .context("ip", "::1")
        .metadata("filter", "actor=ada")
        .reason("first start")
        .occurred_at(Micros(0))
        .build()
        .unwrap();
    assert!(event.is_own());
    assert_eq!(event.class(), Some("permanent"));
    event.set_id("own-1");
    let body = event.seal(&mut counter());
    body.check().unwrap();
    assert!(body.examine().unwrap().is_own && body.is_own());
    let facts = body.facts().unwrap();
    assert_eq!(facts.get("origin").and_then(Value::as_text), Some("i.example/acme"));
    assert_eq!(facts.get("nonce").and_then(Value::as_bytes), Some([9; 32]));
    assert_eq!(facts.get("nonce").and_then(Value::as_bytes::<31>), None);
    assert_eq!(facts.get("names").and_then(Value::as_list).map(<[Value]>::len), Some(2));
    assert_eq!(facts.get("size").and_then(Value::as_number), Some(7));
    assert_eq!(body.withheld().unwrap().len(), 0);
    let clear = String::from_utf8(body.canonical.clone()).unwrap();
    assert!(!clear.contains("=ada") && !clear.contains("quote") && !clear.contains("first"));
    assert!(Event::parse(&body.open().unwrap()).is_err());
    assert_eq!(Event::parse_own(&body.open().unwrap()).unwrap().canonical(), event.canonical());
    let over =
        Builder::new(catalog::action::LOG_CREATED, Outcome::Success).fact("n", 1 << 53).build().unwrap_err();
    assert_eq!((over.kind, over.pointer.as_str()), (InvalidKind::NumberRange, "/varve/n"));
}

/// What a reader of facts could not tell from an absent one is refused where it is written and where it is read.
#[test]
fn facts_are_of_few_types() {
    use InvalidKind::{BadValue, WrongType};
    let own = |fact: &str| format!(r#"{{"action":"varve.a","outcome":"success","varve":{{"n":{fact}}}}}"#);
    for fact in [r#""a""#, "0", "7", "9007199254740991", "true", "false", "[]", r#"["a","b"]"#, "-0", "1e3"] {
        Event::parse_own(own(fact).as_bytes()).unwrap_or_else(|refused| panic!("{fact}: {refused}"));
    }
    for (fact, kind, pointer) in [
        ("-1", BadValue, "/varve/n"),
        ("0.5", BadValue, "/varve/n"),
        ("null", WrongType, "/varve/n"),
        ("{}", WrongType, "/varve/n"),
        ("[1]", WrongType, "/varve/n/0"),
        (r#"[["a"]]"#, WrongType, "/varve/n/0"),
        ("[null]", WrongType, "/varve/n/0"),
    ] {
        let refused = Event::parse_own(own(fact).as_bytes()).expect_err(fact);
        assert_eq!((refused.kind, refused.pointer.as_str()), (kind, pointer), "{fact}");
        let stored = format!(
            r#"{{"action":"varve.a","class":"security","id":"i","outcome":"success","varve":{{"n":{fact}}}}}"#
        );
        let body = Body { salt: [1; 16], canonical: stored.into_bytes(), disclosures: Vec::new() };
        assert!(matches!(body.check(), Err(BodyFault::Event(refused)) if refused.kind == kind), "{fact}");
    }
}

#[test]
fn the_catalogue_is_sound() {
    for name in catalog::action::PERMANENT.into_iter().chain(catalog::action::SECURITY) {
        assert!(catalog::is_own(name) && catalog::class_of(name).is_some());
        Builder::new(name, Outcome::Unknown).build().unwrap();
    }
    assert_eq!(catalog::class_of("varve.other"), None);
    for (class, code) in catalog::Class::ALL.into_iter().zip(0..) {
        assert_eq!(class.code(), code);
        assert_eq!(catalog::Class::from_code(code), Some(class));
        assert_eq!(catalog::Class::named(class.name()), Some(class));
    }
    assert_eq!(catalog::Class::from_code(5), None);
}

#[test]
fn refusals_name_the_member_and_never_the_value() {
    let invalid = Event::parse(br#"{"action":"x","outcome":"success","a/b~c":{"secret":1}}"#).unwrap_err();
    assert_eq!(invalid.pointer, "/a~1b~0c");
    assert_eq!(invalid.to_string(), "/a~1b~0c: an unknown member; remove it, or put it under `metadata`");
    let invalid = Event::parse(b"[\xff]").unwrap_err();
    assert_eq!(invalid.to_string(), "/0 (byte 1): not valid JSON; send one JSON object and nothing after it");
}

#[test]
fn a_token_of_any_length_is_the_keyed_hash() {
    for length in 0..200 {
        let value = vec![b'x'; length];
        let whole = blake3::keyed_hash(&[1; 32], &[&[Field::Ip.code()][..], &value].concat());
        assert_eq!(token(&[1; 32], Field::Ip, &value), whole.as_bytes()[..16], "{length}");
    }
}
