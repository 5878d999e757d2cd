//! From when until when a certificate is valid: as much of X.509 (RFC 5280, section 4.1) as that takes.

use chrono::{DateTime, NaiveDateTime, SecondsFormat};

/// Seconds since 1970.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Validity {
    pub(super) not_before: i64,
    pub(super) not_after: i64,
}

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
/// `[0] EXPLICIT`, before the version.
const VERSION: u8 = 0xa0;

/// The validity of a DER certificate; `None` where it is not one.
pub(super) fn of(certificate: &[u8]) -> Option<Validity> {
    let (outer, _) = element(certificate, SEQUENCE)?;
    let (signed, _) = element(outer, SEQUENCE)?;
    let signed = element(signed, VERSION).map_or(signed, |(_, rest)| rest);
    let (_, signed) = element(signed, INTEGER)?;
    let (_algorithm, signed) = element(signed, SEQUENCE)?;
    let (_issuer, signed) = element(signed, SEQUENCE)?;
    let (times, _) = element(signed, SEQUENCE)?;
    let (not_before, times) = time(times)?;
    let (not_after, _) = time(times)?;
    Some(Validity { not_before, not_after })
}

/// A time as RFC 3339.
pub(super) fn shown(seconds: i64) -> String {
    DateTime::from_timestamp(seconds, 0)
        .map_or(String::new(), |time| time.to_rfc3339_opts(SecondsFormat::Secs, true))
}

/// The content of the element that `bytes` begins with, if it has that tag, and what follows it.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let [found, first, rest @ ..] = bytes else { return None };
    if *found != tag {
        return None;
    }
    let (length, rest) = match *first {
        short @ 0..=0x7f => (usize::from(short), rest),
        // Up to four bytes of length: a certificate is shorter than 4 GiB.
        long @ 0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

fn time(bytes: &[u8]) -> Option<(i64, &[u8])> {
    if let Some((text, rest)) = element(bytes, GENERALIZED_TIME) {
        return Some((seconds(std::str::from_utf8(text).ok()?)?, rest));
    }
    let (text, rest) = element(bytes, UTC_TIME)?;
    let text = std::str::from_utf8(text).ok()?;
    // Two digits of a year: 50 is 1950, 49 is 2049.
    let century = if text >= "5" { "19" } else { "20" };
    Some((seconds(&format!("{century}{text}"))?, rest))
}

fn seconds(text: &str) -> Option<i64> {
    NaiveDateTime::parse_from_str(text, "%Y%m%d%H%M%SZ").ok().map(|time| time.and_utc().timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_of_both_kinds_are_read() {
        let element =
            |tag: u8, text: &str| [&[tag, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
        for (tag, text, expected) in [
            (UTC_TIME, "700101000000Z", Some(0)),
            (UTC_TIME, "491231235959Z", Some(2_524_607_999)),
            (GENERALIZED_TIME, "20500101000000Z", Some(2_524_608_000)),
            (GENERALIZED_TIME, "99991231235959Z", Some(253_402_300_799)),
            (UTC_TIME, "20500101000000Z", None),
            (UTC_TIME, "701301000000Z", None),
            (INTEGER, "700101000000Z", None),
        ] {
            assert_eq!(time(&element(tag, text)).map(|(seconds, _)| seconds), expected, "{text}");
        }
        assert_eq!(shown(253_402_300_799), "9999-12-31T23:59:59Z");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = of(&bytes);
            // Nested far enough to reach the inner rules.
            let inner = [&[SEQUENCE, 0x81, u8::try_from(bytes.len()).unwrap_or(0)], &bytes[..]].concat();
            let _ = of(&[&[SEQUENCE, 0x82, 0, u8::try_from(inner.len()).unwrap_or(0)], &inner[..]].concat());
        }
    }
}
