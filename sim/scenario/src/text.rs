//! Small texts of the file: durations, ranges, counts.

use std::time::Duration;

use crate::scenario::Range;
use crate::step::Count;

/// Reads `5ms`, `10s`, `1m30s`, `1.5s`, `1h`. The same forms as Go's `time.ParseDuration`, without a sign.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut nanos: u128 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).filter(|at| *at > 0)?;
        let whole: u128 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let mut fraction = "";
        if let Some(after) = rest.strip_prefix('.') {
            let digits = after.find(|c: char| !c.is_ascii_digit()).filter(|at| *at > 0)?;
            (fraction, rest) = after.split_at(digits);
        }
        // Longer units first: "ms" begins with "m".
        let units = [("ns", 1), ("us", 1_000), ("µs", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000u128)];
        let longer = [("m", 60_000_000_000), ("h", 3_600_000_000_000)];
        let (unit, scale) = units.iter().chain(&longer).find(|(unit, _)| rest.starts_with(unit))?;
        rest = &rest[unit.len()..];
        nanos = nanos.checked_add(whole.checked_mul(*scale)?)?;
        if !fraction.is_empty() {
            let fraction = &fraction[..fraction.len().min(12)];
            let tenths = 10u128.pow(u32::try_from(fraction.len()).ok()?);
            nanos = nanos.checked_add(fraction.parse::<u128>().ok()? * scale / tenths)?;
        }
    }
    // 1000 days: more is a slip, and keeps sums of times far from overflow.
    if text.is_empty() || nanos > 86_400_000 * 1_000_000_000 { None } else { Some(Duration::from_nanos_u128(nanos)) }
}

/// Reads `5ms..60ms`, or one duration for both bounds.
pub(crate) fn parse_range(text: &str) -> Option<Range> {
    let (min, max) = text.split_once("..").unwrap_or((text, text));
    let range = Range { min: parse_duration(min.trim())?, max: parse_duration(max.trim())? };
    (range.min <= range.max).then_some(range)
}

/// Reads `4`, `2..4`, `2..`, `..4`.
pub(crate) fn parse_count(text: &str) -> Option<Count> {
    let Some((min, max)) = text.split_once("..") else { return text.parse().ok().map(Count::exactly) };
    let (min, max) = (min.trim(), max.trim());
    if min.is_empty() && max.is_empty() {
        return None;
    }
    let count = Count {
        min: if min.is_empty() { 0 } else { min.parse().ok()? },
        max: if max.is_empty() { None } else { Some(max.parse().ok()?) },
    };
    count.max.is_none_or(|max| count.min <= max).then_some(count)
}

/// `1.500s`, `43ms`, `2m05s`: short and readable.
pub(crate) fn show_duration(time: Duration) -> String {
    let ms = time.as_millis();
    match ms {
        0..1000 => format!("{ms}ms"),
        1000..60_000 => format!("{}.{}s", ms / 1000, ms % 1000 / 100),
        _ => format!("{}m{:02}s", ms / 60_000, ms % 60_000 / 1000),
    }
}

/// `00:00:04`, or `1d 02:03:04`, as gobgp prints times.
pub(crate) fn clock(time: Duration) -> String {
    let s = time.as_secs();
    let (days, hours, minutes, seconds) = (s / 86_400, s / 3600 % 24, s / 60 % 60, s % 60);
    if days > 0 {
        format!("{days}d {hours:02}:{minutes:02}:{seconds:02}")
    } else {
        format!("{hours:02}:{minutes:02}:{seconds:02}")
    }
}

/// The allowed word nearest to what was written, if any is near enough to be meant.
pub(crate) fn nearest<'a>(written: &str, allowed: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = written.to_lowercase();
    let score = |word: &'a str| {
        // Another spelling of the same letters (`pod_cidr`, `Service`) is nearer than any typing slip.
        let letters = |text: &str| text.chars().filter(|c| c.is_alphanumeric()).collect::<String>().to_lowercase();
        let distance = if letters(word) == letters(written) {
            0
        } else {
            strsim::damerau_levenshtein(&lower, &word.to_lowercase())
        };
        (distance, word)
    };
    let (distance, word) = allowed.into_iter().map(score).min()?;
    let longest = written.chars().count().max(word.chars().count());
    // A word of which nothing is left is not a slip of the finger.
    (distance <= 1.max(longest / 3) && distance < longest).then_some(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let cases = [
            ("0", Some(0)),
            ("5ms", Some(5_000_000)),
            ("200us", Some(200_000)),
            ("200µs", Some(200_000)),
            ("7ns", Some(7)),
            ("1m30s", Some(90_000_000_000)),
            ("1.5s", Some(1_500_000_000)),
            ("0.0000000001s", Some(0)),
            ("2h", Some(7_200_000_000_000)),
            ("", None),
            ("5", None),
            ("s", None),
            (".5s", None),
            ("1.s", None),
            ("-1s", None),
            ("1 s", None),
            ("5ms ", None),
            ("1d", None),
            ("999999999h", None),
            ("99999999999999999999999999999999999999999s", None),
        ];
        for (text, nanos) in cases {
            assert_eq!(parse_duration(text).map(|time| time.as_nanos()), nanos, "{text}");
        }
    }

    #[test]
    fn ranges_and_counts() {
        let ms = Duration::from_millis;
        assert_eq!(parse_range("5ms..60ms"), Some(Range { min: ms(5), max: ms(60) }));
        assert_eq!(parse_range("5ms"), Some(Range { min: ms(5), max: ms(5) }));
        assert_eq!(parse_range("60ms..5ms"), None);
        assert_eq!(parse_range("..5ms"), None);
        assert_eq!(parse_count("4"), Some(Count::exactly(4)));
        assert_eq!(parse_count("2..4"), Some(Count { min: 2, max: Some(4) }));
        assert_eq!(parse_count("2.."), Some(Count { min: 2, max: None }));
        assert_eq!(parse_count("..4"), Some(Count { min: 0, max: Some(4) }));
        for wrong in ["", "..", "4..2", "-1", "a", "1..b", "1...2", "99999999999999999999"] {
            assert_eq!(parse_count(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn times_are_printed_as_the_tools_do() {
        assert_eq!(clock(Duration::from_secs(4)), "00:00:04");
        assert_eq!(clock(Duration::from_secs(93_784)), "1d 02:03:04");
        assert_eq!(show_duration(Duration::from_millis(999)), "999ms");
        assert_eq!(show_duration(Duration::from_millis(31_250)), "31.2s");
        assert_eq!(show_duration(Duration::from_secs(125)), "2m05s");
    }

    #[test]
    fn slips_are_recognised_and_other_words_are_not() {
        let words = ["podCIDR", "until", "expect", "a"];
        assert_eq!(nearest("pod_cidr", words), Some("podCIDR"));
        assert_eq!(nearest("untill", words), Some("until"));
        assert_eq!(nearest("epxect", words), Some("expect"));
        assert_eq!(nearest("measure", words), None);
        assert_eq!(nearest("c", words), None);
        assert_eq!(nearest("c", []), None);
    }
}
