//! Durations in Go's notation, which mconnect and kube-router use for their flags: `300ms`, `1.5h`, `2h45m`.
//!
//! Negative durations are refused: no flag of ours has a use for one.

use std::time::Duration;

use thiserror::Error;

/// Go's limit: the nanoseconds of a `time.Duration` fit an `i64`.
const NANOSECONDS_MAX: u128 = i64::MAX as u128;

/// Why a text is not a duration. The messages do not repeat the text; the caller knows which flag it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DurationError {
    /// Nothing, or only a sign.
    #[error("a duration is needed, for example 2s or 1m30s")]
    Empty,
    /// A minus sign before anything but zero.
    #[error("a duration cannot be negative")]
    Negative,
    /// A unit where digits should be.
    #[error("a number is needed before each unit, for example 2s or 1m30s")]
    NoNumber,
    /// Digits without a unit behind them.
    #[error("a unit is needed behind each number: ns, us, ms, s, m or h")]
    NoUnit,
    /// A unit that does not exist.
    #[error("the unit is not known: use ns, us, ms, s, m or h")]
    UnknownUnit,
    /// More than about 292 years.
    #[error("the duration is too long")]
    TooLong,
}

/// Reads a duration the way Go's `time.ParseDuration` does: numbers with an optional fraction, each with its unit
/// (`ns`, `us`, `µs`, `μs`, `ms`, `s`, `m`, `h`), in any order; a bare `0` needs none. Digits below a nanosecond are cut.
///
/// # Errors
/// The first thing in the text that is not so.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(DurationError::Empty);
    }
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let (whole, after) = digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => digits(after),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(DurationError::NoNumber);
        }
        let unit_length = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_length);
        let scale = scale(unit)?;
        total = total.checked_add(scaled(whole, fraction, scale)?).ok_or(DurationError::TooLong)?;
        if total > NANOSECONDS_MAX {
            return Err(DurationError::TooLong);
        }
        rest = after;
    }
    if negative && total > 0 {
        return Err(DurationError::Negative);
    }
    Ok(Duration::from_nanos(u64::try_from(total).map_err(|_| DurationError::TooLong)?))
}

/// Writes a duration the way Go's `Duration.String` does: `1h2m3.5s`, below a second one unit (`1.5ms`), zero `0s`.
pub fn format_duration(duration: Duration) -> String {
    let nanoseconds = duration.subsec_nanos();
    if duration.is_zero() {
        return "0s".into();
    }
    if duration.as_secs() == 0 {
        return match nanoseconds {
            ..1_000 => format!("{nanoseconds}ns"),
            1_000..1_000_000 => format!("{}µs", decimal(nanoseconds / 1_000, nanoseconds % 1_000, 3)),
            _ => format!("{}ms", decimal(nanoseconds / 1_000_000, nanoseconds % 1_000_000, 6)),
        };
    }
    let (hours, minutes, seconds) =
        (duration.as_secs() / 3600, duration.as_secs() / 60 % 60, (duration.as_secs() % 60) as u32);
    let seconds = decimal(seconds, nanoseconds, 9);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

fn scale(unit: &str) -> Result<u128, DurationError> {
    match unit {
        "" => Err(DurationError::NoUnit),
        "ns" => Ok(1),
        // The micro sign and the Greek letter mu look alike, and Go takes both.
        "us" | "\u{b5}s" | "\u{3bc}s" => Ok(1_000),
        "ms" => Ok(1_000_000),
        "s" => Ok(1_000_000_000),
        "m" => Ok(60_000_000_000),
        "h" => Ok(3_600_000_000_000),
        _ => Err(DurationError::UnknownUnit),
    }
}

fn scaled(whole: &str, fraction: &str, scale: u128) -> Result<u128, DurationError> {
    let mut value: u128 = 0;
    for digit in whole.bytes() {
        value = value * 10 + u128::from(digit - b'0');
        // Stop before the multiplication below could overflow, however many digits follow.
        if value > NANOSECONDS_MAX {
            return Err(DurationError::TooLong);
        }
    }
    let mut numerator: u128 = 0;
    let mut denominator: u128 = 1;
    // An hour has 13 digits of nanoseconds; 18 places are exact beyond any unit.
    for digit in fraction.bytes().take(18) {
        numerator = numerator * 10 + u128::from(digit - b'0');
        denominator *= 10;
    }
    Ok(value * scale + scale * numerator / denominator)
}

/// `whole.fraction` without trailing zeros; `fraction` has `places` digits.
fn decimal(whole: u32, fraction: u32, places: usize) -> String {
    if fraction == 0 {
        return whole.to_string();
    }
    let digits = format!("{fraction:0places$}");
    format!("{whole}.{}", digits.trim_end_matches('0'))
}
