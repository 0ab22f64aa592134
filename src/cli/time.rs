//! Times and durations as people write and read them. Times come from the bus as microseconds since 1970 and are shown in
//! UTC: what stands here must match the journal of another host.

use std::time::{Duration, SystemTime};

/// Why a duration cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// No digits, or something else among them.
    #[error("write a whole number and a unit: 500ms, 60s, 5m, 1h; without a unit it is seconds")]
    Form,
    /// Does not fit.
    #[error("that is too long")]
    TooLong,
}

/// Reads `500ms`, `60s`, `5m`, `1h`; a bare number is seconds.
pub fn duration(text: &str) -> Result<Duration, DurationError> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let millis = match unit {
        "ms" => 1,
        "s" | "" => 1000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => return Err(DurationError::Form),
    };
    if number.is_empty() {
        return Err(DurationError::Form);
    }
    let number: u64 = number.parse().map_err(|_| DurationError::TooLong)?;
    number.checked_mul(millis).map(Duration::from_millis).ok_or(DurationError::TooLong)
}

/// Now, as the bus counts.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// `2026-01-02 03:04:05 UTC`.
pub fn utc(usec: u64) -> String {
    let seconds = usec / 1_000_000 % 86_400;
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{} {hour:02}:{minute:02}:{second:02} UTC", date(usec))
}

/// `03:04:05.678`.
pub fn clock(usec: u64) -> String {
    let millis = usec / 1000 % 86_400_000;
    let (hour, minute, second) = (millis / 3_600_000, millis / 60_000 % 60, millis / 1000 % 60);
    format!("{hour:02}:{minute:02}:{second:02}.{:03}", millis % 1000)
}

/// `2026-01-02`, by the proleptic Gregorian calendar counted in eras of 400 years from a 1st of March.
pub fn date(usec: u64) -> String {
    let days = usec / 86_400_000_000 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

/// `5 min ago`, `in 3 s`.
pub fn relative(usec: u64, now: u64) -> String {
    if usec > now { format!("in {}", rough(usec - now)) } else { format!("{} ago", rough(now - usec)) }
}

fn rough(usec: u64) -> String {
    match usec / 1_000_000 {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

/// `60 s`, `1.5 s`: a duration a person gave, given back.
pub fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_a_number_and_a_unit() {
        for (text, millis) in
            [("60", 60_000), ("60s", 60_000), ("500ms", 500), ("5m", 300_000), ("5min", 300_000), ("1h", 3_600_000)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "-1s", "1.5s", "1 s", "1d", "s1"] {
            assert_eq!(duration(text), Err(DurationError::Form), "{text}");
        }
        for text in ["99999999999999999999", "18446744073709551615h"] {
            assert_eq!(duration(text), Err(DurationError::TooLong), "{text}");
        }
    }

    #[test]
    fn times_are_shown_as_date_does() {
        // Each checked with `date -u -d @SECONDS`.
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (951_868_800, "2000-03-01 00:00:00 UTC"),
            (1_767_323_045, "2026-01-02 03:04:05 UTC"),
            (4_107_542_399, "2100-02-28 23:59:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(utc(seconds * 1_000_000), text);
        }
        assert_eq!(clock(1_767_323_045_678_901), "03:04:05.678");
        utc(u64::MAX);
    }

    #[test]
    fn distances_are_rough() {
        let now = 10_000_000_000_000;
        assert_eq!(relative(now - 5_000_000, now), "5 s ago");
        assert_eq!(relative(now - 300_000_000, now), "5 min ago");
        assert_eq!(relative(now - 7_200_000_000, now), "2 h ago");
        assert_eq!(relative(now - 259_200_000_000, now), "3 days ago");
        assert_eq!(relative(now + 3_000_000, now), "in 3 s");
        assert_eq!(seconds(Duration::from_millis(1500)), "1.5 s");
    }
}
