//! Points in time as RFC 3339 text, in UTC and always with nine digits, so that texts sort as the times do.

use std::time::Duration;

/// `since_epoch` (time since 1970-01-01 00:00:00 UTC) as `YYYY-MM-DDThh:mm:ss.nnnnnnnnnZ`.
pub fn rfc3339(since_epoch: Duration) -> String {
    let (days, second) = (since_epoch.as_secs() / 86_400, since_epoch.as_secs() % 86_400);
    // Years that begin in March put the leap day last, so every month but the last has its place fixed by arithmetic.
    // 719 468 days lie between 0000-03-01 and the epoch; 146 097 days are the 400 years after which the calendar repeats.
    let days = days + 719_468;
    let (cycle, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = (400 * cycle + year + month / 10, (month + 2) % 12 + 1);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    let nanosecond = since_epoch.subsec_nanos();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanosecond:09}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_dates() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00"),
            (951_782_399, "2000-02-28T23:59:59"),
            (951_782_400, "2000-02-29T00:00:00"),
            (951_868_800, "2000-03-01T00:00:00"),
            (1_704_067_199, "2023-12-31T23:59:59"),
            (1_704_067_200, "2024-01-01T00:00:00"),
            (4_107_542_400, "2100-03-01T00:00:00"),
            (4_107_542_399, "2100-02-28T23:59:59"),
        ] {
            assert_eq!(rfc3339(Duration::new(seconds, 7)), format!("{expected}.000000007Z"), "{seconds}");
        }
    }

    #[test]
    fn any_duration_has_a_text() {
        assert!(rfc3339(Duration::MAX).ends_with(".999999999Z"));
    }
}
