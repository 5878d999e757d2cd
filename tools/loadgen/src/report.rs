//! How a result is told: lines for people, one object for programs, findings apart.

use serde_json::Value;

/// The result of a run.
pub struct Report {
    /// For people.
    pub lines: Vec<String>,
    /// For programs: everything the lines say and more.
    pub json: Value,
    /// What does not hold; empty when all does.
    pub findings: Vec<String>,
}

/// A number with its thousands apart.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (nth, digit) in digits.chars().enumerate() {
        if nth > 0 && (digits.len() - nth).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A rate, rounded to a whole number.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rates are far below 2^53 and not negative"
)]
pub fn rounded(rate: f64) -> u64 {
    rate.max(0.0).round() as u64
}

/// `201 × 5, 503 × 2`.
pub fn counts<K: std::fmt::Display>(counts: &std::collections::BTreeMap<K, u64>) -> String {
    let each: Vec<String> =
        counts.iter().map(|(what, count)| format!("{what} × {}", grouped(*count))).collect();
    if each.is_empty() { "none".to_owned() } else { each.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_stand_apart() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
        assert_eq!((rounded(-1.0), rounded(2.5), rounded(2.4)), (0, 3, 2));
    }
}
