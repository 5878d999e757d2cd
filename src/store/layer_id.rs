//! Calendar months and their parts: which layer a moment belongs to.

use std::cmp::Ordering;
use std::fmt;

use chrono::NaiveDate;

use crate::retention::{layer_code, layer_text, month_code, parse_layer, split_layer};

/// A calendar month (UTC) of `recorded_at`, or a part of one: a month whose layer is closed early goes on in its next
/// part. The code is `(part - 1) << 17 | year * 12 + month`, part from 1 and month from 0. Orders as time does: by month,
/// then by part, which the codes do not. The year is one of 1970 to 9999.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LayerId(u32);

impl LayerId {
    /// The month of a moment in microseconds since 1970, its first part. `None` beyond year 9999.
    pub fn of(micros: u64) -> Option<LayerId> {
        month_code(micros).map(LayerId)
    }

    /// The layer with a code, as it stands in frames and snapshots. `None` where no time can lie, or no part.
    pub fn from_code(code: u32) -> Option<LayerId> {
        let (month, part) = split_layer(code);
        layer_code(month, part).map(LayerId)
    }

    /// The code.
    pub fn code(self) -> u32 {
        self.0
    }

    /// Which part of its month, from 1.
    pub fn part(self) -> u32 {
        split_layer(self.0).1
    }

    /// The first part of its month.
    pub fn month(self) -> LayerId {
        LayerId(split_layer(self.0).0)
    }

    /// The part after this one, in the same month. `None` when the numbers are used up.
    pub fn next_part(self) -> Option<LayerId> {
        let (month, part) = split_layer(self.0);
        layer_code(month, part + 1).map(LayerId)
    }

    /// First microsecond of the month, whatever the part.
    pub fn start(self) -> u64 {
        let month = self.month().0;
        let year = i32::try_from(month / 12).expect("a year has four digits");
        let first = NaiveDate::from_ymd_opt(year, month % 12 + 1, 1).expect("month is 1 to 12");
        let micros = first.and_hms_opt(0, 0, 0).expect("midnight exists").and_utc().timestamp_micros();
        u64::try_from(micros).unwrap_or(0)
    }

    /// First microsecond of the month after.
    pub fn end(self) -> u64 {
        LayerId(self.month().0 + 1).start()
    }

    /// Reads `2026-11` and `2026-11.p2`.
    pub fn parse(text: &str) -> Option<LayerId> {
        parse_layer(text).map(LayerId)
    }
}

impl Ord for LayerId {
    fn cmp(&self, other: &LayerId) -> Ordering {
        split_layer(self.0).cmp(&split_layer(other.0))
    }
}

impl PartialOrd for LayerId {
    fn partial_cmp(&self, other: &LayerId) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&layer_text(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retention::MAX_PART;

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

    #[test]
    fn the_first_part_has_the_code_and_the_text_of_its_month() {
        let november = LayerId::parse("2026-11").unwrap();
        assert_eq!((november.code(), november.part(), november.month()), (24_322, 1, november));
        for month in (1970 * 12..10_000 * 12).step_by(7) {
            let id = LayerId::from_code(month).unwrap();
            assert_eq!((id.code(), id.part()), (month, 1));
            assert_eq!(id.to_string(), format!("{:04}-{:02}", month / 12, month % 12 + 1));
        }
        for code in [0, 1970 * 12 - 1, 10_000 * 12, (1 << 17) - 1, 1 << 17, MAX_PART << 17 | 24_322, u32::MAX]
        {
            assert_eq!(LayerId::from_code(code), None, "{code}");
        }
    }

    #[test]
    fn parts_of_a_month_lie_in_it_and_before_the_next() {
        let november = LayerId::parse("2026-11").unwrap();
        let second = november.next_part().unwrap();
        let third = second.next_part().unwrap();
        assert_eq!((second.to_string().as_str(), second.code()), ("2026-11.p2", 1 << 17 | 24_322));
        assert_eq!((third.to_string().as_str(), third.part()), ("2026-11.p3", 3));
        let december = LayerId::parse("2026-12").unwrap();
        let mut ids = [december, third, november, second];
        ids.sort_unstable();
        assert_eq!(ids, [november, second, third, december]);
        assert!(second.code() > december.code(), "the codes alone order otherwise");
        for id in ids {
            assert_eq!(LayerId::from_code(id.code()), Some(id));
            assert_eq!(LayerId::parse(&id.to_string()), Some(id));
        }
        assert_eq!((third.month(), third.start(), third.end()), (november, november.start(), november.end()));
        let last = LayerId::parse("2026-11.p9999").unwrap();
        assert_eq!((last.part(), last.next_part()), (MAX_PART, None));
        for text in ["2026-11.p1", "2026-11.p0", "2026-11.p02", "2026-11.p10000", "2026-11.P2", "2026-11.p2 "]
        {
            assert_eq!(LayerId::parse(text), None, "{text}");
        }
    }
}
