//! Months of the calendar, in UTC, and the layers that are numbered by them: a month, or a part of one.

use chrono::{DateTime, Datelike, Months};

use crate::event::Micros;

/// Most months that a class is kept: a hundred years.
pub const MAX_MONTHS: u16 = 1_200;

/// Most parts of a month. (9,999 − 1) × 2^17 + 119,999 is below 2^31, so every code fits into 4 bytes.
pub const MAX_PART: u32 = 9_999;

/// Years that a time of this format can have (event.md §1.3).
const YEARS: std::ops::RangeInclusive<u32> = 1970..=9999;

/// Bits of a layer's code below its part: the last month is 9999 × 12 + 11 = 119,999, below 2^17 = 131,072.
const MONTH_BITS: u32 = 17;

/// The same time of day on the same day `months` months later, or on the last day of that month where it has no such
/// day. `None`: beyond year 9999, which no time of this format reaches.
pub fn add_months(micros: u64, months: u16) -> Option<u64> {
    let moment = DateTime::from_timestamp_micros(i64::try_from(micros).ok()?)?;
    let later = moment.checked_add_months(Months::new(u32::from(months)))?;
    u64::try_from(later.timestamp_micros()).ok().filter(|later| *later <= Micros::MAX.0)
}

/// The month of a moment: year × 12 + month, month from 0, which is the code of its first part. `None` beyond year 9999.
pub fn month_code(micros: u64) -> Option<u32> {
    let moment = DateTime::from_timestamp_micros(i64::try_from(micros).ok()?)?;
    let year = u32::try_from(moment.year()).ok().filter(|year| YEARS.contains(year))?;
    Some(year * 12 + moment.month0())
}

/// The code of a part of a month, parts from 1: the month's own code for the first. `None` where there is no such month
/// or part.
pub fn layer_code(month: u32, part: u32) -> Option<u32> {
    (YEARS.contains(&(month / 12)) && (1..=MAX_PART).contains(&part))
        .then_some((part.wrapping_sub(1)) << MONTH_BITS | month)
}

/// Month and part of a layer's code, for which [`layer_code`] need not answer.
pub fn split_layer(code: u32) -> (u32, u32) {
    (code & ((1 << MONTH_BITS) - 1), (code >> MONTH_BITS) + 1)
}

/// A layer as it is written: `2026-10` for the first part of a month, `2026-10.p2` for the second.
pub fn layer_text(code: u32) -> String {
    let (month, part) = split_layer(code);
    let (year, month) = (month / 12, month % 12 + 1);
    if part == 1 { format!("{year:04}-{month:02}") } else { format!("{year:04}-{month:02}.p{part}") }
}

/// Reads `2026-10` and `2026-10.p2`.
pub fn parse_layer(text: &str) -> Option<u32> {
    let (month, part) = text.split_once(".p").unwrap_or((text, "1"));
    let (year, month) = month.split_once('-')?;
    let number = |digits: &str| digits.parse::<u32>().ok();
    let month = number(year)?.checked_mul(12)?.checked_add(number(month)?.checked_sub(1)?)?;
    // One spelling alone: no sign, no other number of digits, no thirteenth month, no `.p1`.
    layer_code(month, number(part)?).filter(|code| layer_text(*code) == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_that_the_month_lacks_is_its_last() {
        for (from, months, to) in [
            ("2026-10-31T23:59:00.000001Z", 1, "2026-11-30T23:59:00.000001Z"),
            ("2026-10-31T23:59:00Z", 4, "2027-02-28T23:59:00.000000Z"),
            ("2027-08-31T00:00:00Z", 6, "2028-02-29T00:00:00.000000Z"),
            ("2028-02-29T12:00:00Z", 12, "2029-02-28T12:00:00.000000Z"),
            ("2028-02-29T12:00:00Z", 48, "2032-02-29T12:00:00.000000Z"),
            ("1999-12-15T12:00:00Z", 1, "2000-01-15T12:00:00.000000Z"),
            ("2026-11-27T00:00:00Z", 1_200, "2126-11-27T00:00:00.000000Z"),
            ("9999-11-30T23:59:59.999999Z", 1, "9999-12-30T23:59:59.999999Z"),
        ] {
            let later = add_months(Micros::parse(from).unwrap().0, months).unwrap();
            assert_eq!(Micros(later).to_string(), to, "{from} + {months}");
        }
        assert_eq!(add_months(Micros::MAX.0, 1), None);
        assert_eq!(add_months(u64::MAX, 1), None);
    }

    #[test]
    fn a_layer_has_one_spelling() {
        let october = month_code(Micros::parse("2026-10-31T23:59:59Z").unwrap().0).unwrap();
        assert_eq!(layer_text(october), "2026-10");
        assert_eq!(parse_layer("2026-10"), Some(october));
        assert_eq!(month_code(0), parse_layer("1970-01"));
        assert_eq!(month_code(Micros::MAX.0), parse_layer("9999-12"));
        assert_eq!(month_code(Micros::MAX.0 + 1), None);
        for text in [
            "2026-13",
            "2026-00",
            "1969-12",
            "2026-1",
            "+026-10",
            "2026-+1",
            "10000-01",
            "2026",
            "",
            "99999999999-01",
            "2026-10.p0",
            "2026-10.p1",
            "2026-10.p02",
            "2026-10.p+2",
            "2026-10.p",
            "2026-10.2",
            "2026-10.p10000",
            "2026-10.p2.p2",
            "2026-13.p2",
            "2026-10.p4294967297",
        ] {
            assert_eq!(parse_layer(text), None, "{text}");
        }
        for (text, part) in [("2026-10", 1), ("2026-10.p2", 2), ("2026-10.p9999", MAX_PART)] {
            let code = layer_code(october, part).unwrap();
            assert_eq!((layer_text(code).as_str(), parse_layer(text)), (text, Some(code)));
            assert_eq!(split_layer(code), (october, part));
        }
        assert_eq!(layer_code(october, 1), Some(october));
        assert!(layer_code(october, 0).is_none() && layer_code(october, MAX_PART + 1).is_none());
        assert!(layer_code(1969 * 12 + 11, 1).is_none() && layer_code(10_000 * 12, 1).is_none());
        assert!(parse_layer("9999-12.p9999").unwrap() < 1 << 31);
    }
}
