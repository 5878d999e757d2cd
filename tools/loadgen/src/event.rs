//! The events that are sent: an event follows from its number, so that a receipt can be held against it.
//!
//! Some 400 bytes of JSON with actor, one target, context and metadata, the same as the bench `append` appends.

use std::io::Write as _;

/// Odd, so that different numbers have different ids.
const ID_STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// Odd, as [`ID_STEP`]; request ids look like other ids.
const REQUEST_STEP: u64 = 0xD1B5_4A32_D192_ED03;

/// The `id` of event `number`.
pub fn id(number: u64) -> String {
    format!("evt-{:016x}", number.wrapping_mul(ID_STEP))
}

/// The number whose event has this `id`, if one has.
pub fn number_of(id: &str) -> Option<u64> {
    let digits = id.strip_prefix("evt-").filter(|digits| digits.len() == 16)?;
    let mixed = u64::from_str_radix(digits, 16).ok()?;
    let number = mixed.wrapping_mul(inverse(ID_STEP));
    // Upper-case digits and a sign read as numbers too; an id is compared as it stands.
    (self::id(number) == id).then_some(number)
}

/// Writes event `number` to the end of `out`.
pub fn write(number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(br#"{"id":"evt-"#);
    hex(number.wrapping_mul(ID_STEP), out);
    out.extend_from_slice(
        br#"","action":"secret.value.decrypt","outcome":"success","occurred_at":"2026-11-21T10:15:30.123456Z","actor":{"type":"service","id":""#,
    );
    write_actor(number, out);
    // Writing to a Vec cannot fail.
    let _ = write!(
        out,
        r#"","name":"billing"}},"targets":[{{"type":"secret","id":"sec-{:06}"}}],"context":{{"ip":"10.1.{}.{}","request_id":"req-"#,
        number % 5000,
        number / 256 % 256,
        number % 256,
    );
    hex(number.wrapping_mul(REQUEST_STEP), out);
    out.extend_from_slice(
        br#"","user_agent":"billing/2.3"},"metadata":{"key_version":7,"purpose":"invoice","region":"eu-central-1"}}"#,
    );
}

/// The `actor.id` of event `number`.
pub fn write_actor(number: u64, out: &mut Vec<u8>) {
    let _ = write!(out, "svc-billing-{}", number % 50);
}

fn hex(value: u64, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.extend((0..16).rev().map(|nibble| DIGITS[(value >> (nibble * 4) & 15) as usize]));
}

/// The inverse of an odd number modulo 2^64: Newton's step doubles the bits that are right, from three to 96.
const fn inverse(odd: u64) -> u64 {
    let mut found = odd;
    let mut step = 0;
    while step < 5 {
        found = found.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(found)));
        step += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_json_that_varve_takes_and_has_its_id() {
        for number in [0, 1, 7, 255, 256, 4_999, 123_456_789, u64::MAX] {
            let mut raw = Vec::new();
            write(number, &mut raw);
            let value: serde_json::Value = serde_json::from_slice(&raw).unwrap();
            assert_eq!(value["id"], id(number));
            assert!((390..=410).contains(&raw.len()), "{} bytes", raw.len());
            assert!(varve::event::Event::parse(&raw).is_ok());
        }
    }

    #[test]
    fn ids_lead_back_to_numbers() {
        for number in [0, 1, 2, 1_000_003, u64::MAX] {
            assert_eq!(number_of(&id(number)), Some(number));
        }
        for other in ["", "evt-", "evt-123", "evt-00000000000000zz", "req-0000000000000000"] {
            assert_eq!(number_of(other), None, "{other}");
        }
        let upper = id(1).replace("evt-", "").to_uppercase();
        assert_eq!(number_of(&format!("evt-{upper}")), None);
    }
}
