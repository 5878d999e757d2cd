//! A change of a policy as a caller asks for it: JSON, held against the policy before and the operator's floor.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::Refusal;
use super::months::MAX_MONTHS;
use super::policy::{
    ClassTerm, MAX_CLASSES, MAX_POLICY_BYTES, MAX_RULES, Policy, Rule, is_own_name, is_pattern, own_code,
};
use crate::event::catalog::Class;

/// Bytes of a change as it is sent: the largest policy in JSON has 40 KiB.
pub const MAX_CHANGE_BYTES: usize = 64 << 10;

/// What is to be changed: `{"classes":{"security":{"months":12}},"rules":[{"action":"billing.*","class":"billing"}]}`.
/// A class that is not named keeps what it has; rules that are there replace all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyChange {
    /// Name and months, in the order sent.
    classes: Vec<(String, u16)>,
    /// In the order sent, so that a pointer finds them.
    rules: Option<Vec<Rule>>,
}

impl PolicyChange {
    /// Reads a change. Unknown members are refused.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn parse(raw: &[u8]) -> Result<PolicyChange, Refusal> {
        if raw.len() > MAX_CHANGE_BYTES {
            return Err(Refusal::new("", format!("over {MAX_CHANGE_BYTES} bytes")));
        }
        let json: Json = serde_json::from_slice(raw).map_err(|error| {
            // The parser's own words can quote what was sent.
            let (line, column) = (error.line(), error.column());
            Refusal::new("", format!("not JSON (line {line}, column {column})"))
        })?;
        let mut change = PolicyChange { classes: Vec::new(), rules: None };
        for (name, value) in members(&json, "", &["classes", "rules"])? {
            match name.as_str() {
                "classes" => change.classes = read_classes(value)?,
                _ => change.rules = Some(read_rules(value)?),
            }
        }
        Ok(change)
    }

    /// The policy that it makes of `before`, or of the one that a log begins with. No class may be kept for less than
    /// `floor_months`.
    ///
    /// # Errors
    /// The member of the change that cannot be, as a pointer; also for a class below the floor that the change leaves
    /// as it is.
    pub fn apply(&self, before: Option<&Policy>, floor_months: u16) -> Result<Policy, Refusal> {
        let mut policy = before.cloned().unwrap_or_default();
        for (name, months) in &self.classes {
            match policy.classes.iter_mut().find(|term| term.name == *name) {
                Some(term) => term.months = *months,
                None => {
                    let code = own_code(policy.classes.len()).filter(|_| policy.classes.len() < MAX_CLASSES);
                    let full = || {
                        Refusal::new(
                            class_pointer(name),
                            format!("a log has at most {MAX_CLASSES} classes, and none goes away"),
                        )
                    };
                    policy.classes.push(ClassTerm {
                        name: name.clone(),
                        code: code.ok_or_else(full)?,
                        months: *months,
                    });
                }
            }
        }
        if let Some(low) = policy.classes.iter().find(|term| term.months < floor_months) {
            let what =
                format!("{} months are less than the {floor_months} that the operator asks for", low.months);
            return Err(Refusal::new(format!("{}/months", class_pointer(&low.name)), what));
        }
        if let Some(rules) = &self.rules {
            policy.rules.clone_from(rules);
            let unknown = |rule: &Rule| policy.class_named(&rule.class).is_none();
            if let Some(place) = policy.rules.iter().position(unknown) {
                return Err(Refusal::new(
                    format!("/rules/{place}/class"),
                    "no class of the policy; name it under `classes`",
                ));
            }
            policy.rules.sort_by(|a, b| a.pattern.cmp(&b.pattern));
        }
        if !policy.fits() {
            return Err(Refusal::new(
                "/rules",
                format!(
                    "classes and rules have over {MAX_POLICY_BYTES} bytes; use shorter names or fewer rules"
                ),
            ));
        }
        Ok(policy)
    }
}

fn class_pointer(name: &str) -> String {
    format!("/classes/{name}")
}

fn read_classes(json: &Json) -> Result<Vec<(String, u16)>, Refusal> {
    let mut classes = Vec::new();
    for (name, value) in object(json, "/classes")? {
        if name == Class::Permanent.name() {
            return Err(Refusal::new(class_pointer(name), "`permanent` is kept for ever"));
        }
        if Class::named(name).is_none() && !is_own_name(name) {
            return Err(Refusal::new("/classes", "a class has 1 to 64 of a-z, 0-9 and `-`"));
        }
        let pointer = class_pointer(name);
        let months = members(value, &pointer, &["months"])?.iter().map(|(_, months)| months).next();
        let pointer = format!("{pointer}/months");
        let months = months.ok_or_else(|| Refusal::new(pointer.clone(), "it is absent"))?;
        let number = if let Json::Number(number) = months { u16::try_from(*number).ok() } else { None };
        let number = number.filter(|number| (1..=MAX_MONTHS).contains(number));
        let range = || Refusal::new(pointer, format!("months are an integer from 1 to {MAX_MONTHS}"));
        classes.push((name.clone(), number.ok_or_else(range)?));
    }
    Ok(classes)
}

fn read_rules(json: &Json) -> Result<Vec<Rule>, Refusal> {
    let Json::List(list) = json else { return Err(Refusal::new("/rules", "rules are an array")) };
    if list.len() > MAX_RULES {
        return Err(Refusal::new(
            format!("/rules/{MAX_RULES}"),
            format!("a policy has at most {MAX_RULES} rules"),
        ));
    }
    let mut rules: Vec<Rule> = Vec::new();
    for (place, json) in list.iter().enumerate() {
        let pointer = format!("/rules/{place}");
        let given = members(json, &pointer, &["action", "class"])?;
        let text = |name: &str| match given.iter().find(|(found, _)| found == name) {
            Some((_, Json::Text(text))) => Ok(text.clone()),
            Some(_) => Err(Refusal::new(format!("{pointer}/{name}"), "a string")),
            None => Err(Refusal::new(format!("{pointer}/{name}"), "it is absent")),
        };
        let rule = Rule { pattern: text("action")?, class: text("class")? };
        if !is_pattern(&rule.pattern) {
            let what = "an action, or a prefix and `.*`, of 1 to 128 characters and not Varve's own";
            return Err(Refusal::new(format!("{pointer}/action"), what));
        }
        if rules.iter().any(|other| other.pattern == rule.pattern) {
            return Err(Refusal::new(format!("{pointer}/action"), "another rule has this pattern"));
        }
        rules.push(rule);
    }
    Ok(rules)
}

/// The members of an object that has none but these, each once.
fn members<'a>(json: &'a Json, pointer: &str, names: &[&str]) -> Result<&'a [(String, Json)], Refusal> {
    let found = object(json, pointer)?;
    match found.iter().find(|(name, _)| !names.contains(&name.as_str())) {
        None => Ok(found),
        // What the caller wrote is not repeated: the name is not ours.
        Some(_) => Err(Refusal::new(pointer, format!("an unknown member; it has {}", names.join(" and ")))),
    }
}

/// The members of an object, each once.
fn object<'a>(json: &'a Json, pointer: &str) -> Result<&'a [(String, Json)], Refusal> {
    let Json::Object(members) = json else { return Err(Refusal::new(pointer, "an object")) };
    let mut names: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        None => Ok(members),
        Some(_) => Err(Refusal::new(pointer, "a name occurs twice")),
    }
}

/// JSON with its members in order and none lost, which a map would not keep.
enum Json {
    Object(Vec<(String, Json)>),
    List(Vec<Json>),
    Text(String),
    Number(u64),
    Other,
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Json, D::Error> {
        from.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Json::Object(members))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Json, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = list.next_element()? {
            elements.push(element);
        }
        Ok(Json::List(elements))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.to_owned()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Json, E> {
        Ok(Json::Number(number))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Json, E> {
        Ok(Json::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Json, E> {
        Ok(Json::Other)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Json, E> {
        Ok(Json::Other)
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_named_stays() {
        let change = |json: &str| PolicyChange::parse(json.as_bytes()).unwrap();
        let first =
            change(r#"{"classes":{"z":{"months":3},"a":{"months":2}},"rules":[{"action":"x","class":"a"}]}"#);
        let first = first.apply(None, 1).unwrap();
        let terms = |policy: &Policy| -> Vec<(String, u16, u16)> {
            policy.classes().iter().map(|term| (term.name.clone(), term.code, term.months)).collect()
        };
        assert_eq!(terms(&first)[..4], terms(&Policy::default())[..]);
        // Codes go by the order sent.
        assert_eq!(terms(&first)[4..], [("z".to_owned(), 256, 3), ("a".to_owned(), 257, 2)]);
        let second = change(r#"{"classes":{"security":{"months":1200},"a":{"months":5}}}"#)
            .apply(Some(&first), 1)
            .unwrap();
        assert_eq!((second.rules(), terms(&second)[0].2, terms(&second)[5].2), (first.rules(), 1_200, 5));
        assert_eq!(change("{}").apply(Some(&second), 1).unwrap(), second);
        assert!(change(r#"{"rules":[]}"#).apply(Some(&second), 1).unwrap().rules().is_empty());
    }

    #[test]
    fn a_refusal_points_at_what_is_wrong() {
        let many: Vec<String> = (0..=60).map(|n| format!(r#""c{n}":{{"months":1}}"#)).collect();
        let rules: Vec<String> =
            (0..257).map(|n| format!(r#"{{"action":"a{n}","class":"security"}}"#)).collect();
        for (json, pointer) in [
            ("", ""),
            ("[]", ""),
            ("{}x", ""),
            (r#"{"floor":1}"#, ""),
            (r#"{"a/b~":1}"#, ""),
            (r#"{"rules":[],"rules":[]}"#, ""),
            (r#"{"classes":[]}"#, "/classes"),
            (r#"{"classes":{"security":{"months":12},"security":{"months":13}}}"#, "/classes"),
            (r#"{"classes":{"permanent":{"months":12}}}"#, "/classes/permanent"),
            (r#"{"classes":{"A":{"months":12}}}"#, "/classes"),
            (r#"{"classes":{"":{"months":12}}}"#, "/classes"),
            (r#"{"classes":{"a":12}}"#, "/classes/a"),
            (r#"{"classes":{"a":{}}}"#, "/classes/a/months"),
            (r#"{"classes":{"a":{"months":0}}}"#, "/classes/a/months"),
            (r#"{"classes":{"a":{"months":1201}}}"#, "/classes/a/months"),
            (r#"{"classes":{"a":{"months":"12"}}}"#, "/classes/a/months"),
            (r#"{"classes":{"a":{"months":1.5}}}"#, "/classes/a/months"),
            (r#"{"classes":{"a":{"months":-1}}}"#, "/classes/a/months"),
            (r#"{"classes":{"a":{"months":5}}}"#, "/classes/a/months"),
            (r#"{"classes":{"a":{"months":12,"days":1}}}"#, "/classes/a"),
            (r#"{"rules":{}}"#, "/rules"),
            (r#"{"rules":[1]}"#, "/rules/0"),
            (r#"{"rules":[{"action":"a"}]}"#, "/rules/0/class"),
            (r#"{"rules":[{"class":"security"}]}"#, "/rules/0/action"),
            (r#"{"rules":[{"action":1,"class":"security"}]}"#, "/rules/0/action"),
            (r#"{"rules":[{"action":"*","class":"security"}]}"#, "/rules/0/action"),
            (r#"{"rules":[{"action":"varve.key.*","class":"security"}]}"#, "/rules/0/action"),
            (
                r#"{"rules":[{"action":"b","class":"security"},{"action":"a","class":"other"}]}"#,
                "/rules/1/class",
            ),
            (r#"{"rules":[{"action":"a","class":"permanent"}]}"#, "/rules/0/class"),
            (
                r#"{"rules":[{"action":"a","class":"security"},{"action":"a","class":"security"}]}"#,
                "/rules/1/action",
            ),
            (&format!(r#"{{"rules":[{}]}}"#, rules.join(",")), "/rules/256"),
            (
                &format!(r#"{{"classes":{{{}}}}}"#, many.join(",").replace("\"months\":1", "\"months\":9")),
                "/classes/c60",
            ),
        ] {
            let refused =
                PolicyChange::parse(json.as_bytes()).and_then(|change| change.apply(None, 6)).unwrap_err();
            assert_eq!(refused.pointer, pointer, "{json}: {refused}");
        }
        // A class that nobody named is below the floor too.
        let refused = PolicyChange::parse(b"{}").unwrap().apply(None, 24).unwrap_err();
        assert_eq!(refused.pointer, "/classes/security/months");
        assert!(PolicyChange::parse(&[b' '; MAX_CHANGE_BYTES + 1]).is_err());
    }
}
