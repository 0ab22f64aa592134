//! Dates of certificates against the clock, and whether the clock can be right at all.

use std::time::{SystemTime, UNIX_EPOCH};

use x509_parser::time::ASN1Time;

/// When this program was built, seconds since 1970; reproducible builds say it with `SOURCE_DATE_EPOCH`.
pub const BUILD_EPOCH: i64 = match i64::from_str_radix(env!("ENFTUN_BUILD_EPOCH"), 10) {
    Ok(seconds) => seconds,
    Err(_) => 0,
};

/// The clock stands before the day this program was built: a host without a battery-backed clock that has not heard
/// from a time server yet.
pub fn clock_is_wrong(now: i64) -> bool {
    now < BUILD_EPOCH
}

/// Seconds since 1970, negative before.
pub fn seconds(time: SystemTime) -> i64 {
    let seconds = |duration: std::time::Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => seconds(since),
        Err(before) => -seconds(before.duration()),
    }
}

/// `YYYY-MM-DD` of seconds since 1970.
pub fn day(seconds: i64) -> String {
    ASN1Time::from_timestamp(seconds)
        .map_or_else(|_| format!("{seconds} s after 1970"), |time| time.to_datetime().date().to_string())
}

/// `YYYY-MM-DDTHH:MM:SSZ` (RFC 3339) of seconds since 1970.
pub fn moment(seconds: i64) -> String {
    ASN1Time::from_timestamp(seconds).map_or_else(
        |_| day(seconds),
        |time| {
            let time = time.to_datetime();
            format!("{}T{:02}:{:02}:{:02}Z", time.date(), time.hour(), time.minute(), time.second())
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_clock_is_wrong_before_the_build_and_right_after() {
        assert!(clock_is_wrong(0));
        assert!(clock_is_wrong(BUILD_EPOCH - 1));
        assert!(!clock_is_wrong(seconds(SystemTime::now())));
        assert_eq!(seconds(UNIX_EPOCH - Duration::from_secs(5)), -5);
    }

    #[test]
    fn days_of_every_year_a_certificate_can_say() {
        assert_eq!(day(-62_167_219_200), "0000-01-01");
        assert_eq!(day(0), "1970-01-01");
        assert_eq!(day(253_402_300_799), "9999-12-31");
        assert_eq!(moment(0), "1970-01-01T00:00:00Z");
        assert_eq!(moment(1_767_323_045), "2026-01-02T03:04:05Z");
        assert_eq!(day(i64::MAX), format!("{} s after 1970", i64::MAX));
    }
}
