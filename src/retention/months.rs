//! Months of the calendar, in UTC.

use chrono::{DateTime, Datelike, Months};

use crate::event::Micros;

/// Most months that a class is kept: a hundred years.
pub const MAX_MONTHS: u16 = 1_200;

/// Years that a time of this format can have (event.md §1.3).
const YEARS: std::ops::RangeInclusive<u32> = 1970..=9999;

/// The same time of day on the same day `months` months later, or on the last day of that month where it has no such
/// day. `None`: beyond year 9999, which no time of this format reaches.
pub fn add_months(micros: u64, months: u16) -> Option<u64> {
    let moment = DateTime::from_timestamp_micros(i64::try_from(micros).ok()?)?;
    let later = moment.checked_add_months(Months::new(u32::from(months)))?;
    u64::try_from(later.timestamp_micros()).ok().filter(|later| *later <= Micros::MAX.0)
}

/// The month of a moment: year × 12 + month, month from 0, as layers are numbered. `None` beyond year 9999.
pub fn month_code(micros: u64) -> Option<u32> {
    let moment = DateTime::from_timestamp_micros(i64::try_from(micros).ok()?)?;
    let year = u32::try_from(moment.year()).ok().filter(|year| YEARS.contains(year))?;
    Some(year * 12 + moment.month0())
}

/// A month as it is written: `2026-10`.
pub fn month_text(code: u32) -> String {
    format!("{:04}-{:02}", code / 12, code % 12 + 1)
}

/// Reads `2026-10`.
pub fn parse_month(text: &str) -> Option<u32> {
    let (year, month) = text.split_once('-')?;
    let number = |digits: &str| digits.parse::<u32>().ok();
    let code = (number(year)? * 12).checked_add(number(month)?.checked_sub(1)?)?;
    // One spelling alone: no sign, no other number of digits, no thirteenth month.
    (YEARS.contains(&(code / 12)) && month_text(code) == text).then_some(code)
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
    fn a_month_has_one_spelling() {
        let october = month_code(Micros::parse("2026-10-31T23:59:59Z").unwrap().0).unwrap();
        assert_eq!(month_text(october), "2026-10");
        assert_eq!(parse_month("2026-10"), Some(october));
        assert_eq!(month_code(0), parse_month("1970-01"));
        assert_eq!(month_code(Micros::MAX.0), parse_month("9999-12"));
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
        ] {
            assert_eq!(parse_month(text), None, "{text}");
        }
    }
}
