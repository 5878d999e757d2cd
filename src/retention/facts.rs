//! Facts of entries, read strictly: each of the type it must have, and no other fact beside them.

use super::Refusal;
use crate::event::Value;

/// The facts of an entry while they are read.
pub(super) struct Facts<'a>(&'a [(String, Value)]);

impl<'a> Facts<'a> {
    /// Facts that have no names but these.
    pub(super) fn of(facts: &'a Value, names: &[&str]) -> Result<Facts<'a>, Refusal> {
        let Value::Object(members) = facts else {
            return Err(Refusal::new("", "an entry without facts"));
        };
        match members.iter().find(|(name, _)| !names.contains(&name.as_str())) {
            None => Ok(Facts(members)),
            // The name itself may be anything.
            Some(_) => Err(Refusal::new("", "a fact that such an entry does not have")),
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.0.iter().find(|(found, _)| found == name).map(|(_, value)| value)
    }

    pub(super) fn text(&self, name: &str) -> Result<&'a str, Refusal> {
        self.get(name).and_then(Value::as_text).ok_or_else(|| not_a(name, "a string"))
    }

    pub(super) fn number(&self, name: &str) -> Result<u64, Refusal> {
        self.get(name).and_then(Value::as_number).ok_or_else(|| not_a(name, "an integer"))
    }

    /// A list of strings.
    pub(super) fn texts(&self, name: &str) -> Result<Vec<&'a str>, Refusal> {
        let list = self.get(name).and_then(Value::as_list);
        let texts = list.and_then(|list| list.iter().map(Value::as_text).collect());
        texts.ok_or_else(|| not_a(name, "a list of strings"))
    }
}

fn not_a(name: &str, kind: &str) -> Refusal {
    Refusal::new(format!("/{name}"), format!("{kind}, and it is absent or another value"))
}

/// A number of two bytes in its only decimal spelling.
pub(super) fn decimal(text: &str) -> Option<u16> {
    text.parse::<u16>().ok().filter(|number| number.to_string() == text)
}
