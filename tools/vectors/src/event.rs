//! Vectors of events: one file for one rule or one fault. What is expected of the text of an event is
//! written by hand; commitments and hashes are what this build computes.

use varve::event::{Body, Disclosure, Event, InvalidKind, Value};

/// File names and contents under `tests/vectors/event`.
pub(crate) fn vectors() -> Vec<(String, String)> {
    let mut files = Vec::new();
    admitted(&mut files);
    refused(&mut files);
    bodies(&mut files);
    files
}

type Files = Vec<(String, String)>;
type Edit = fn(&mut Body);

/// Raw text that is admitted, and its canonical form.
fn admitted(files: &mut Files) {
    let with = |members: &str| format!(r#"{{"action":"a.b","outcome":"success"{members}}}"#);
    let rule = |name: &str, rule: &str, raw: &str, canonical: &str| {
        let members = [("rule", rule.into()), ("raw", raw.into()), ("canonical", canonical.into())];
        (format!("admit-{name}.json"), file(&members))
    };
    files.extend([
        rule("minimal", "action and outcome suffice", &with(""), &with("")),
        rule(
            "order",
            "members ascend; white space goes",
            "\t{ \"outcome\" : \"denied\" ,\r\n \"action\":\"a\" } ",
            r#"{"action":"a","outcome":"denied"}"#,
        ),
        rule(
            "order-utf16",
            "names ascend by UTF-16 code units: U+1F600 before U+E000",
            &with(",\"metadata\":{\"\u{e000}\":1,\"\u{1f600}\":2,\"\u{ffff}\":3,\"a\":4,\"\":5,\"aa\":6,\"A\":7,\"\\n\":8}"),
            "{\"action\":\"a.b\",\"metadata\":{\"\":5,\"\\n\":8,\"A\":7,\"a\":4,\"aa\":6,\"\u{1f600}\":2,\"\u{e000}\":1,\"\u{ffff}\":3},\"outcome\":\"success\"}",
        ),
        rule(
            "escapes",
            "only what must be escaped is, in the shortest way",
            &with(r#","reason":"\u0000\u001F\u007f\u0008\t\n\f\r\"\\\/\u00e9\ud83d\uDE00\u2028""#),
            "{\"action\":\"a.b\",\"outcome\":\"success\",\"reason\":\"\\u0000\\u001f\u{7f}\\b\\t\\n\\f\\r\\\"\\\\/é😀\u{2028}\"}",
        ),
        rule(
            "numbers",
            "numbers read as doubles, written as ECMAScript does",
            &with(r#","metadata":{"a":[0,-0,-0.0,1.0,1E3,1e-7,0.000001,1e15,9007199254740991,-9007199254740991.0,0.1,5e-324,1e-400,-1e-400,123456789012345678e-5]}"#),
            r#"{"action":"a.b","metadata":{"a":[0,0,0,1,1000,1e-7,0.000001,1000000000000000,9007199254740991,-9007199254740991,0.1,5e-324,0,0,1234567890123.4568]},"outcome":"success"}"#,
        ),
        rule(
            "number-rounds-into-range",
            "the range is that of the double: 9007199254740991.4 reads as 9007199254740991",
            &with(r#","metadata":{"a":9007199254740991.4}"#),
            r#"{"action":"a.b","metadata":{"a":9007199254740991},"outcome":"success"}"#,
        ),
        rule(
            "time-offset",
            "times become UTC with six decimals",
            &with(r#","occurred_at":"2024-02-29t23:30:00.5-01:45""#),
            r#"{"action":"a.b","occurred_at":"2024-03-01T01:15:00.500000Z","outcome":"success"}"#,
        ),
        rule(
            "every-member",
            "every member that a service may send",
            &format!("{{{EVERY_MEMBER}}}"),
            EVERY_MEMBER_CANONICAL,
        ),
        rule("empty-target", "a target needs no member", &with(r#","targets":[{}]"#), r#"{"action":"a.b","outcome":"success","targets":[{}]}"#),
        rule("empty-text", "a free text may be empty", &with(r#","reason":"""#), r#"{"action":"a.b","outcome":"success","reason":""}"#),
        rule(
            "depth-32",
            "32 containers within one another",
            &with(&format!(r#","metadata":{{"a":{}{}}}"#, "[".repeat(30), "]".repeat(30))),
            &format!(r#"{{"action":"a.b","metadata":{{"a":{}{}}},"outcome":"success"}}"#, "[".repeat(30), "]".repeat(30)),
        ),
        rule(
            "id-128",
            "an id of 128 characters, of all kinds",
            &format!(r#"{{"action":"a","id":"aZ09._:/-{}","outcome":"unknown"}}"#, "x".repeat(119)),
            &format!(r#"{{"action":"a","id":"aZ09._:/-{}","outcome":"unknown"}}"#, "x".repeat(119)),
        ),
        rule("varve-prefix-is-not-a-word", "only `varve.` is reserved", r#"{"action":"varves.x","outcome":"success"}"#, r#"{"action":"varves.x","outcome":"success"}"#),
    ]);
    let own = r#"{"action":"varve.log.created","varve":{"origin":"i/t","n":["a"],"size":1,"is_new":true},"outcome":"success"}"#;
    let canonical = r#"{"action":"varve.log.created","outcome":"success","varve":{"is_new":true,"n":["a"],"origin":"i/t","size":1}}"#;
    let members = [
        ("rule", "an own event may have clear facts".into()),
        ("own", true.into()),
        ("raw", own.into()),
        ("canonical", canonical.into()),
    ];
    files.push(("admit-own-facts.json".to_owned(), file(&members)));
    files.push(padded("admit-64-kib", "64 KiB in all", 64 * 1024, None));
}

const EVERY_MEMBER: &str = r#""targets":[{"name":"n","id":"t1","type":"key"},{"id":"t2"}],"reason":"because","producer":{"seq":1,"service":"s","instance":"i"},"outcome":"failure","occurred_at":"1970-01-01T00:00:00Z","metadata":{"k":{"b":1,"a":[true,false,null]}},"id":"e-1","context":{"user_agent":"u","trace_id":"t","session_id":"s","request_id":"r","ip":"AWS Internal","country":"DE","case_id":"c"},"class":"security","changes":[{"to":2,"from":1,"field":"f"},{"field":"g"}],"actor":{"type":"user","name":"Ada","id":"ada","email":"ada@example.com"},"action":"aws.kms.decrypt""#;
const EVERY_MEMBER_CANONICAL: &str = r#"{"action":"aws.kms.decrypt","actor":{"email":"ada@example.com","id":"ada","name":"Ada","type":"user"},"changes":[{"field":"f","from":1,"to":2},{"field":"g"}],"class":"security","context":{"case_id":"c","country":"DE","ip":"AWS Internal","request_id":"r","session_id":"s","trace_id":"t","user_agent":"u"},"id":"e-1","metadata":{"k":{"a":[true,false,null],"b":1}},"occurred_at":"1970-01-01T00:00:00.000000Z","outcome":"failure","producer":{"instance":"i","seq":1,"service":"s"},"reason":"because","targets":[{"id":"t1","name":"n","type":"key"},{"id":"t2"}]}"#;

/// An event whose `reason` is padded with `x` to `bytes`: `pad` says how many go before the last two
/// bytes of `raw`.
fn padded(name: &str, rule: &str, bytes: usize, kind: Option<InvalidKind>) -> (String, String) {
    let raw = r#"{"action":"a","outcome":"success","reason":""}"#;
    let pad = u64::try_from(bytes - raw.len()).unwrap_or_default();
    let mut members = vec![("rule", rule.into()), ("raw", raw.into()), ("pad", Value::Number(pad))];
    if let Some(kind) = kind {
        members.extend([("kind", kind.name().into()), ("pointer", "".into())]);
    }
    (format!("{name}.json"), file(&members))
}

/// Raw bytes that are refused: the kind, and the pointer.
fn refused(files: &mut Files) {
    use InvalidKind::*;
    let mut refuse = |name: &str, kind: InvalidKind, pointer: &str, raw: &[u8]| {
        // Bytes that are not text stand as base64url.
        let raw = match std::str::from_utf8(raw) {
            Ok(text) => ("raw", text.into()),
            Err(_) => ("raw_bytes", Value::bytes(raw)),
        };
        let members = [raw, ("kind", kind.name().into()), ("pointer", pointer.into())];
        files.push((format!("refuse-{name}.json"), file(&members)));
    };
    let plain: [(&str, InvalidKind, &str, &[u8]); 26] = [
        ("empty", Syntax, "", b""),
        ("byte-order-mark", Syntax, "", b"\xef\xbb\xbf{}"),
        ("two-texts", Syntax, "", br#"{"action":"a","outcome":"success"}{}"#),
        ("trailing-comma", Syntax, "", br#"{"action":"a",}"#),
        ("single-quotes", Syntax, "", b"{'action':'a'}"),
        ("comment", Syntax, "", br#"{/**/"action":"a"}"#),
        ("cut", Syntax, "/outcome", br#"{"action":"a","outcome":"suc"#),
        ("raw-control", Syntax, "/reason", b"{\"reason\":\"a\nb\"}"),
        ("bad-escape", Syntax, "/reason", br#"{"reason":"\x41"}"#),
        ("short-escape", Syntax, "/reason", br#"{"reason":"\u12"}"#),
        ("leading-zero", Syntax, "/metadata/a", br#"{"metadata":{"a":01}}"#),
        ("leading-plus", Syntax, "/metadata/a", br#"{"metadata":{"a":+1}}"#),
        ("bare-point", Syntax, "/metadata/a", br#"{"metadata":{"a":1.}}"#),
        ("bare-exponent", Syntax, "/metadata/a", br#"{"metadata":{"a":1e}}"#),
        ("nan", Syntax, "/metadata/a", br#"{"metadata":{"a":NaN}}"#),
        ("utf8-invalid", InvalidUtf8, "/reason", b"{\"reason\":\"a\xff\"}"),
        ("utf8-surrogate", InvalidUtf8, "/reason", b"{\"reason\":\"\xed\xa0\x80\"}"),
        ("utf8-overlong", InvalidUtf8, "/reason", b"{\"reason\":\"\xc0\xaf\"}"),
        ("surrogate-high-alone", LoneSurrogate, "/reason", br#"{"reason":"\ud83d"}"#),
        ("surrogate-low-alone", LoneSurrogate, "/reason", br#"{"reason":"\ude00"}"#),
        ("surrogate-two-high", LoneSurrogate, "/reason", br#"{"reason":"\ud83d\ud83d"}"#),
        ("not-an-object", WrongType, "", b"[]"),
        ("action-missing", Missing, "/action", br#"{"outcome":"success"}"#),
        ("outcome-other", BadValue, "/outcome", br#"{"action":"a","outcome":"ok"}"#),
        ("outcome-missing", Missing, "/outcome", br#"{"action":"a"}"#),
        (
            "pointer-escapes",
            DuplicateName,
            "/metadata/a~1b~0c",
            br#"{"metadata":{"a/b~c":1,"a/b\u007ec":2}}"#,
        ),
    ];
    for (name, kind, pointer, raw) in plain {
        refuse(name, kind, pointer, raw);
    }
    for (name, kind, pointer, members) in refused_members() {
        refuse(name, kind, pointer, format!(r#"{{"action":"a","outcome":"success",{members}}}"#).as_bytes());
    }
    for (name, kind, action) in [
        ("action-reserved", ReservedAction, "varve.log.created"),
        ("action-reserved-alone", ReservedAction, "varve"),
        ("action-upper-case", BadValue, "A"),
        ("action-empty-word", BadValue, "a..b"),
        ("action-ends-with-dot", BadValue, "a."),
        ("action-begins-with-dot", BadValue, ".a"),
        ("action-empty", BadLength, ""),
        ("action-129", BadLength, &"a".repeat(129)),
    ] {
        refuse(name, kind, "/action", format!(r#"{{"action":"{action}","outcome":"success"}}"#).as_bytes());
    }
    files.push(padded("refuse-64-kib-and-one", "over 64 KiB", 64 * 1024 + 1, Some(TooLarge)));
    let raw = r#"{"action":"a","outcome":"success"}"#;
    let members = [
        ("own", true.into()),
        ("raw", raw.into()),
        ("kind", ForeignAction.name().into()),
        ("pointer", "/action".into()),
    ];
    files.push(("refuse-own-outside-varve.json".to_owned(), file(&members)));
    for (name, kind, pointer, fact) in [
        ("negative", BadValue, "/varve/n", "-1"),
        ("fraction", BadValue, "/varve/n", "0.5"),
        ("null", WrongType, "/varve/n", "null"),
        ("object", WrongType, "/varve/n", "{}"),
        ("list-of-numbers", WrongType, "/varve/n/0", "[1]"),
    ] {
        let raw = format!(r#"{{"action":"varve.a","outcome":"success","varve":{{"n":{fact}}}}}"#);
        let members = [
            ("own", true.into()),
            ("raw", raw.as_str().into()),
            ("kind", kind.name().into()),
            ("pointer", pointer.into()),
        ];
        files.push((format!("refuse-fact-{name}.json"), file(&members)));
    }
}

/// Members that are refused beside a sound `action` and `outcome`.
fn refused_members() -> Vec<(&'static str, InvalidKind, &'static str, String)> {
    use InvalidKind::*;
    let deep = format!(r#""metadata":{{"a":{}{}}}"#, "[".repeat(31), "]".repeat(31));
    let rows: Vec<(&str, InvalidKind, &str, &str)> = vec![
        ("duplicate-name", DuplicateName, "/metadata/a", r#""metadata":{"a":1,"b":2,"\u0061":3}"#),
        ("duplicate-top-level", DuplicateName, "/outcome", r#""outcome":"success""#),
        ("number-2-53", NumberRange, "/metadata/a", r#""metadata":{"a":9007199254740992}"#),
        (
            "number-2-53-exponent",
            NumberRange,
            "/metadata/a/0",
            r#""metadata":{"a":[-0.9007199254740992e16]}"#,
        ),
        ("number-infinite", NumberRange, "/metadata/a", r#""metadata":{"a":1e400}"#),
        ("unknown-member", UnknownMember, "/severity", r#""severity":1"#),
        ("varve-member", UnknownMember, "/varve", r#""varve":{}"#),
        ("sealed-name", ReservedName, "/metadata/a/0/$sealed", r#""metadata":{"a":[{"\u0024sealed":1}]}"#),
        ("sealed-name-top-level", ReservedName, "/$sealed", r#""$sealed":"x""#),
        ("sealed-name-for-actor", ReservedName, "/actor/$sealed", r#""actor":{"$sealed":"x","id":"a"}"#),
        ("id-empty", BadLength, "/id", r#""id":"""#),
        ("id-space", BadValue, "/id", r#""id":"a b""#),
        ("id-number", WrongType, "/id", r#""id":1"#),
        ("class-upper-case", BadValue, "/class", r#""class":"Security""#),
        ("class-null", WrongType, "/class", r#""class":null"#),
        ("time-seven-decimals", BadTime, "/occurred_at", r#""occurred_at":"2024-05-01T12:00:00.0000000Z""#),
        ("time-second-60", BadTime, "/occurred_at", r#""occurred_at":"2016-12-31T23:59:60Z""#),
        ("time-without-offset", BadTime, "/occurred_at", r#""occurred_at":"2024-05-01T12:00:00""#),
        ("time-with-space", BadTime, "/occurred_at", r#""occurred_at":"2024-05-01 12:00:00Z""#),
        ("time-no-such-day", BadTime, "/occurred_at", r#""occurred_at":"2023-02-29T12:00:00Z""#),
        ("time-before-1970", BadTime, "/occurred_at", r#""occurred_at":"1969-12-31T23:59:59Z""#),
        ("time-number", WrongType, "/occurred_at", r#""occurred_at":1714564800"#),
        ("producer-without-service", Missing, "/producer/service", r#""producer":{"instance":"i","seq":1}"#),
        (
            "producer-seq-without-instance",
            Missing,
            "/producer/instance",
            r#""producer":{"service":"s","seq":1}"#,
        ),
        (
            "producer-seq-zero",
            BadValue,
            "/producer/seq",
            r#""producer":{"service":"s","instance":"i","seq":0}"#,
        ),
        (
            "producer-seq-fraction",
            BadValue,
            "/producer/seq",
            r#""producer":{"service":"s","instance":"i","seq":1.5}"#,
        ),
        ("producer-unknown", UnknownMember, "/producer/host", r#""producer":{"service":"s","host":"h"}"#),
        ("actor-without-id", Missing, "/actor/id", r#""actor":{"type":"user"}"#),
        ("actor-id-empty", BadLength, "/actor/id", r#""actor":{"id":""}"#),
        ("actor-unknown", UnknownMember, "/actor/phone", r#""actor":{"id":"a","phone":"1"}"#),
        ("actor-type-empty", BadLength, "/actor/type", r#""actor":{"id":"a","type":""}"#),
        ("actor-text", WrongType, "/actor", r#""actor":"ada""#),
        ("target-unknown", UnknownMember, "/targets/1/email", r#""targets":[{"id":"a"},{"email":"e"}]"#),
        ("targets-object", WrongType, "/targets", r#""targets":{"id":"a"}"#),
        ("context-unknown", UnknownMember, "/context/host", r#""context":{"host":"h"}"#),
        ("context-number", WrongType, "/context/ip", r#""context":{"ip":1}"#),
        ("change-without-field", Missing, "/changes/0/field", r#""changes":[{"from":1}]"#),
        ("change-unknown", UnknownMember, "/changes/0/was", r#""changes":[{"field":"f","was":1}]"#),
        ("reason-object", WrongType, "/reason", r#""reason":{}"#),
        ("metadata-array", WrongType, "/metadata", r#""metadata":[]"#),
    ];
    let mut rows: Vec<_> =
        rows.into_iter().map(|(name, kind, at, members)| (name, kind, at, members.to_owned())).collect();
    let inmost = "/metadata/a/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0";
    rows.push(("depth-33", TooDeep, inmost, deep));
    rows.push(("targets-33", TooMany, "/targets/32", format!(r#""targets":[{}]"#, vec!["{}"; 33].join(","))));
    rows.push(("id-129", BadLength, "/id", format!(r#""id":"{}""#, "a".repeat(129))));
    rows.push((
        "text-2049",
        BadLength,
        "/context/ip",
        format!(r#""context":{{"ip":"{}"}}"#, "é".repeat(2049)),
    ));
    // 4,000 numbers of five bytes each that become seventeen.
    rows.push((
        "canonical-too-large",
        TooLarge,
        "",
        format!(r#""metadata":{{"a":[{}]}}"#, vec!["1e15"; 4000].join(",")),
    ));
    rows
}

/// Bodies, sound and not.
fn bodies(files: &mut Files) {
    let mut event =
        Event::parse(format!("{{{EVERY_MEMBER}}}").as_bytes()).unwrap_or_else(|error| panic!("{error}"));
    event.set_id("e-1");
    let mut next = 0_u8;
    let sound = event.seal(&mut |salts| {
        salts.iter_mut().for_each(|byte| {
            next = next.wrapping_add(1);
            *byte = next;
        });
    });
    let mut encoded = Vec::new();
    sound.encode(&mut encoded);
    let facts = [
        ("event_hash", Value::bytes(sound.event_hash().as_bytes())),
        ("opened", EVERY_MEMBER_CANONICAL.into()),
        ("encoded", Value::bytes(&encoded)),
    ];
    files.push(("body-sound.json".to_owned(), body_file("every member, sealed", &sound, &facts)));

    let mut withheld = sound.clone();
    withheld.disclosures.retain(|disclosure| !matches!(disclosure.path.as_str(), "/actor" | "/targets/1"));
    let facts = [
        ("event_hash", Value::bytes(sound.event_hash().as_bytes())),
        ("withheld", Value::List(vec!["/actor".into(), "/targets/1".into()])),
    ];
    files.push(("body-withheld.json".to_owned(), body_file("a disclosure may be absent", &withheld, &facts)));

    let faults: [(&str, &str, &str, Edit); 17] = [
        ("salt", "disclosure", "/actor", |body| body.disclosures[0].salt[0] ^= 1),
        ("value", "disclosure", "/reason", |body| value(body, "/reason", r#""becausf""#)),
        ("value-space", "not_canonical", "/reason", |body| value(body, "/reason", r#" "because""#)),
        ("value-actor-type", "unknown_member", "/actor/type", |body| {
            value(body, "/actor", r#"{"id":"ada","type":"user"}"#)
        }),
        ("value-sealed-name", "reserved_name", "/metadata/$sealed", |body| {
            value(body, "/metadata", r#"{"$sealed":"x"}"#)
        }),
        ("twice", "twice", "/actor", |body| body.disclosures.push(body.disclosures[0].clone())),
        ("no-marker", "no_marker", "/targets/2", |body| body.disclosures[0].path = "/targets/2".to_owned()),
        ("path-never-sealed", "no_marker", "/outcome", |body| {
            body.disclosures[0].path = "/outcome".to_owned()
        }),
        ("path-leading-zero", "no_marker", "/targets/00", |body| {
            body.disclosures[0].path = "/targets/00".to_owned()
        }),
        ("targets-swapped", "disclosure", "/targets/1", |body| {
            let places: Vec<usize> = (0..body.disclosures.len())
                .filter(|&place| body.disclosures[place].path.starts_with("/targets/"))
                .collect();
            body.disclosures[places[0]].path = "/targets/1".to_owned();
            body.disclosures[places[1]].path = "/targets/0".to_owned();
        }),
        ("clear-value", "not_sealed", "/reason", |body| clear(body, "/reason", "because")),
        ("spare-bits", "not_sealed", "/reason", |body| spare_bits(body, "/reason")),
        ("space", "not_canonical", "", |body| replace(body, r#"{"action""#, r#"{ "action""#)),
        ("order", "not_canonical", "/action", |body| {
            replace(body, r#"{"action""#, r#"{"id":"e-1","action""#)
        }),
        ("class-missing", "missing", "/class", |body| replace(body, r#""class":"security","#, "")),
        ("time-not-normal", "not_canonical", "/occurred_at", |body| {
            replace(body, "00:00:00.000000Z", "00:00:00Z")
        }),
        ("number-spelling", "not_canonical", "/producer/seq", |body| {
            replace(body, r#""seq":1"#, r#""seq":1.0"#)
        }),
    ];
    for (name, kind, pointer, edit) in faults {
        let mut body = sound.clone();
        edit(&mut body);
        let facts = [("kind", kind.into()), ("pointer", pointer.into())];
        files
            .push((format!("body-fault-{name}.json"), body_file("a body that must be found", &body, &facts)));
    }
}

fn value(body: &mut Body, path: &str, value: &str) {
    if let Some(found) = body.disclosures.iter_mut().find(|disclosure| disclosure.path == path) {
        found.value = value.as_bytes().to_vec();
    }
}

fn replace(body: &mut Body, from: &str, to: &str) {
    let text = String::from_utf8_lossy(&body.canonical).into_owned();
    assert!(text.contains(from), "nothing to replace");
    body.canonical = text.replacen(from, to, 1).into_bytes();
}

/// The marker at `path`, a top-level member, as it stands in the event.
fn marker(body: &Body, path: &str) -> String {
    let text = String::from_utf8_lossy(&body.canonical).into_owned();
    let name = format!("\"{}\":", &path[1..]);
    let start = text.find(&name).map_or(0, |at| at + name.len());
    text[start..start + 57].to_owned()
}

fn clear(body: &mut Body, path: &str, text: &str) {
    replace(body, &marker(body, path), &format!("\"{text}\""));
    body.disclosures.retain(|disclosure| disclosure.path != path);
}

/// Sets a spare bit of the last character.
fn spare_bits(body: &mut Body, path: &str) {
    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let from = marker(body, path);
    let last = ALPHABET.find(&from[54..55]).unwrap_or_default();
    replace(body, &from, &format!("{}{}\"}}", &from[..54], &ALPHABET[last + 1..last + 2]));
}

fn body_file(rule: &str, body: &Body, facts: &[(&str, Value)]) -> String {
    let disclosure = |one: &Disclosure| {
        Value::Object(vec![
            ("path".to_owned(), one.path.as_str().into()),
            ("salt".to_owned(), Value::bytes(&one.salt)),
            ("value".to_owned(), String::from_utf8_lossy(&one.value).into_owned().into()),
        ])
    };
    let mut members = vec![
        ("rule", rule.into()),
        ("salt", Value::bytes(&body.salt)),
        ("event", String::from_utf8_lossy(&body.canonical).into_owned().into()),
        ("disclosures", Value::List(body.disclosures.iter().map(disclosure).collect())),
    ];
    members.extend(facts.iter().cloned());
    file(&members)
}

/// A JSON object, a member a line.
fn file(members: &[(&str, Value)]) -> String {
    let lines: Vec<String> =
        members.iter().map(|(name, value)| format!("  \"{name}\": {}", value.to_json())).collect();
    format!("{{\n{}\n}}\n", lines.join(",\n"))
}
