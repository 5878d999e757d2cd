//! Times: microseconds since 1970-01-01T00:00:00Z in bytes, RFC 3339 UTC with six decimals in text.
//!
//! Limits: 1970-01-01T00:00:00Z to 9999-12-31T23:59:59.999999Z. A second of 60 and a seventh decimal
//! are refused rather than rounded: a time that is changed on the way in is not the time claimed.

use std::fmt;

/// Microseconds since 1970-01-01T00:00:00Z, without leap seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Micros(pub u64);

/// Text that is not a time the format accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not an RFC 3339 time of 1970–9999 with at most six decimals and seconds below 60; \
     write it like 2024-05-01T12:00:00.123456Z"
)]
pub struct BadTime;

impl Micros {
    /// 9999-12-31T23:59:59.999999Z, the last time RFC 3339 can write.
    pub const MAX: Micros = Micros(253_402_300_799_999_999);

    /// Characters of the text form, `YYYY-MM-DDTHH:MM:SS.ffffffZ`.
    pub const TEXT_CHARS: usize = 27;

    /// Reads an RFC 3339 time (section 5.6) with any offset and up to six decimals.
    pub fn parse(text: &str) -> Result<Micros, BadTime> {
        parse(text.as_bytes()).ok_or(BadTime)
    }

    /// Whether a text that [`Micros::parse`] takes is the text form. Of what it takes, only the letters, the number of
    /// decimals and the offset can be written in another way.
    pub(crate) fn is_canonical(text: &[u8]) -> bool {
        text.len() == Micros::TEXT_CHARS && text[10] == b'T' && text[19] == b'.' && text[26] == b'Z'
    }

    /// The text form, `YYYY-MM-DDTHH:MM:SS.ffffffZ`. Times beyond [`Micros::MAX`] read as that.
    pub fn text(self) -> [u8; Micros::TEXT_CHARS] {
        let micros = self.0.min(Micros::MAX.0);
        let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        let (year, month, day) = civil(days);
        let mut text = *b"0000-00-00T00:00:00.000000Z";
        digits(&mut text[0..4], year);
        digits(&mut text[5..7], month);
        digits(&mut text[8..10], day);
        digits(&mut text[11..13], second / 3600);
        digits(&mut text[14..16], second / 60 % 60);
        digits(&mut text[17..19], second % 60);
        digits(&mut text[20..26], fraction);
        text
    }
}

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text().iter().try_for_each(|&byte| fmt::Write::write_char(f, char::from(byte)))
    }
}

fn parse(text: &[u8]) -> Option<Micros> {
    // The fixed part ends with the seconds; a decimal point and an offset may follow.
    let (head, mut rest) = text.split_at_checked(19)?;
    if head[4] != b'-'
        || head[7] != b'-'
        || !matches!(head[10], b'T' | b't')
        || head[13] != b':'
        || head[16] != b':'
    {
        return None;
    }
    let (year, month, day) = (number(&head[0..4])?, number(&head[5..7])?, number(&head[8..10])?);
    let (hour, minute, second) = (number(&head[11..13])?, number(&head[14..16])?, number(&head[17..19])?);
    if !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let mut fraction = 0;
    if let Some(decimals) = rest.strip_prefix(b".") {
        let length = decimals.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if !(1..=6).contains(&length) {
            return None;
        }
        fraction = number(&decimals[..length])? * 10_i64.pow(6 - u32::try_from(length).ok()?);
        rest = &decimals[length..];
    }
    let seconds =
        days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset(rest)?;
    let micros = u64::try_from(seconds * 1_000_000 + fraction).ok()?;
    (micros <= Micros::MAX.0).then_some(Micros(micros))
}

/// Seconds east of UTC.
fn offset(text: &[u8]) -> Option<i64> {
    match text {
        [b'Z' | b'z'] => Some(0),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (number(&[*h1, *h2])?, number(&[*m1, *m2])?);
            let seconds = (hours <= 23 && minutes <= 59).then_some(hours * 3600 + minutes * 60)?;
            Some(if *sign == b'-' { -seconds } else { seconds })
        }
        _ => None,
    }
}

fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + i64::from(byte - b'0')))
}

fn digits(place: &mut [u8], mut value: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b"0123456789"[(value % 10) as usize];
        value /= 10;
    }
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar. Years are counted from March, so that
/// the leap day is the last of its year and month lengths follow the pattern 153 days in 5 months.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let shifted = if month > 2 { year } else { year - 1 };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let leaps = shifted.div_euclid(4) - shifted.div_euclid(100) + shifted.div_euclid(400);
    // 719,468 days lie between 0000-03-01 and 1970-01-01.
    shifted * 365 + leaps + day_of_year - 719_468
}

/// The inverse of [`days_from_civil`] from 1970 on: year, month, day.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day_of_month)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_are_normalised_to_utc() {
        for (text, normal) in [
            ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00.000000Z"),
            ("2024-02-29t23:59:59.5z", "2024-02-29T23:59:59.500000Z"),
            ("2024-05-01T12:00:00.123456+05:30", "2024-05-01T06:30:00.123456Z"),
            ("2023-12-31T23:30:00-00:45", "2024-01-01T00:15:00.000000Z"),
            ("1969-12-31T23:30:00-01:00", "1970-01-01T00:30:00.000000Z"),
            ("2024-02-29t23:59:59.500000Z", "2024-02-29T23:59:59.500000Z"),
            ("2024-02-29T23:59:59.500000z", "2024-02-29T23:59:59.500000Z"),
            ("2024-02-29T23:59:59.5+00:00", "2024-02-29T23:59:59.500000Z"),
            ("2024-02-29T23:59:59.500000+00:00", "2024-02-29T23:59:59.500000Z"),
            ("2000-02-29T00:00:00-00:00", "2000-02-29T00:00:00.000000Z"),
            ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"),
        ] {
            assert_eq!(Micros::parse(text).unwrap().to_string(), normal);
            assert_eq!(Micros::is_canonical(text.as_bytes()), text == normal, "{text}");
        }
        assert_eq!(Micros::parse("2023-07-10T11:45:00Z").unwrap(), Micros(1_688_989_500_000_000));
        assert_eq!(Micros(u64::MAX).to_string(), Micros::MAX.to_string());
    }

    #[test]
    fn what_is_not_a_time_is_refused() {
        for text in [
            "",
            "2024-05-01",
            "2024-05-01 12:00:00Z",
            "2024-05-01T12:00:00",
            "2024-05-01T12:00:60Z",
            "2024-05-01T24:00:00Z",
            "2024-05-01T12:60:00Z",
            "2024-05-01T12:00:00.Z",
            "2024-05-01T12:00:00.1234567Z",
            "2024-05-01T12:00:00.0000000Z",
            "2024-05-01T12:00:00+24:00",
            "2024-05-01T12:00:00+05:60",
            "2024-05-01T12:00:00+0530",
            "2024-05-01T12:00:00ZZ",
            "2023-02-29T12:00:00Z",
            "1900-02-29T12:00:00Z",
            "2024-00-01T12:00:00Z",
            "2024-13-01T12:00:00Z",
            "2024-04-31T12:00:00Z",
            "2024-04-00T12:00:00Z",
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00+00:01",
            "9999-12-31T23:59:59-00:01",
            "+024-05-01T12:00:00Z",
            "2024-05-01T12:00:0éZ",
        ] {
            assert_eq!(Micros::parse(text), Err(BadTime), "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_reads_back(micros in 0..=Micros::MAX.0) {
            let text = Micros(micros).text();
            prop_assert_eq!(Micros::parse(&Micros(micros).to_string()), Ok(Micros(micros)));
            // Whatever one byte becomes: what is taken and called canonical is what would be written.
            for (place, byte) in (0..27).flat_map(|place| (b' '..b'~').map(move |byte| (place, byte))) {
                let mut changed = text;
                changed[place] = byte;
                let parsed = std::str::from_utf8(&changed).ok().and_then(|text| Micros::parse(text).ok());
                if let Some(parsed) = parsed {
                    prop_assert_eq!(Micros::is_canonical(&changed), parsed.text() == changed);
                }
            }
        }

        #[test]
        fn every_day_reads_back(day in 0_u64..2_932_897) {
            let (year, month, date) = civil(day);
            let back = days_from_civil(year as i64, month as i64, date as i64);
            prop_assert_eq!(back, day as i64);
        }

        #[test]
        fn arbitrary_text_never_panics(text in ".{0,40}") {
            let _ = Micros::parse(&text);
        }
    }
}
