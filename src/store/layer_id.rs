//! Calendar months: which layer a moment belongs to.

use std::fmt;
use std::ops::RangeInclusive;

use chrono::{DateTime, Datelike, NaiveDate};

/// Years that a time of this format can have (event.md §1.3).
const YEARS: RangeInclusive<u32> = 1970..=9999;

/// A calendar month (UTC) of `recorded_at`: `year * 12 + month`, month from 0. Orders as time does. The year is
/// one of 1970 to 9999.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LayerId(u32);

impl LayerId {
    /// The month of a moment in microseconds since 1970. `None` beyond year 9999.
    pub fn of(micros: u64) -> Option<LayerId> {
        let moment = DateTime::from_timestamp_micros(i64::try_from(micros).ok()?)?;
        LayerId::from_code(u32::try_from(moment.year()).ok()?.checked_mul(12)? + moment.month0())
    }

    /// The month with a code, as it stands in frames and snapshots. `None` where no time can lie.
    pub fn from_code(code: u32) -> Option<LayerId> {
        YEARS.contains(&(code / 12)).then_some(LayerId(code))
    }

    /// The code.
    pub fn code(self) -> u32 {
        self.0
    }

    /// First microsecond of the month.
    pub fn start(self) -> u64 {
        let year = i32::try_from(self.0 / 12).expect("a year has four digits");
        let first = NaiveDate::from_ymd_opt(year, self.0 % 12 + 1, 1).expect("month is 1 to 12");
        let micros = first.and_hms_opt(0, 0, 0).expect("midnight exists").and_utc().timestamp_micros();
        u64::try_from(micros).unwrap_or(0)
    }

    /// First microsecond of the month after.
    pub fn end(self) -> u64 {
        LayerId(self.0 + 1).start()
    }

    /// Reads `2026-11`.
    pub fn parse(text: &str) -> Option<LayerId> {
        let (year, month) = text.split_once('-')?;
        let is_number =
            |text: &str, digits| text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(year, 4) || !is_number(month, 2) {
            return None;
        }
        let (year, month): (u32, u32) = (year.parse().ok()?, month.parse().ok()?);
        (1..=12).contains(&month).then(|| LayerId::from_code(year * 12 + month - 1))?
    }
}

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.0 / 12, self.0 % 12 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_begins_and_ends_where_the_calendar_says() {
        let november = LayerId::parse("2026-11").unwrap();
        assert_eq!(november.to_string(), "2026-11");
        assert_eq!(LayerId::of(november.start()), Some(november));
        assert_eq!(LayerId::of(november.end() - 1), Some(november));
        assert_eq!(LayerId::of(november.end()).unwrap().to_string(), "2026-12");
        assert_eq!(LayerId::of(november.start() - 1).unwrap().to_string(), "2026-10");
        assert_eq!(
            LayerId::parse("2024-02").unwrap().end() - LayerId::parse("2024-02").unwrap().start(),
            29 * 86_400_000_000
        );
        for text in ["2026-13", "2026-00", "1969-12", "0000-01", "2026-+1", "+026-11", "2026-1", "10000-01"] {
            assert_eq!(LayerId::parse(text), None, "{text}");
        }
        let last = LayerId::parse("9999-12").unwrap();
        assert!(last.start() < last.end());
    }
}
