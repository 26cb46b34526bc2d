//! Misbehaviour on request: what an API server does on a bad day.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// How the server misbehaves. Probabilities are from 0 to 1; by default it behaves.
///
/// As text: `slow=200ms,disconnect=0.1,stale=0.5,duplicate=0.2,reorder=300ms,429=0.1,500=0.1,gone=0.1`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Misbehaviour {
    /// Each answer comes so much later, and so does what a watch tells.
    pub slow: Duration,
    /// A connection is cut: before an answer (whatever was asked is done), or after an event of a watch.
    pub disconnect: f64,
    /// A list shows an older state, as far back as is remembered.
    pub stale: f64,
    /// An event of a watch comes twice.
    pub duplicate: f64,
    /// Each watch tells of changes up to so much later than the others.
    pub reorder: Duration,
    /// A request is answered 429 Too Many Requests, to be repeated after a second.
    pub too_many: f64,
    /// A request is answered 500 Internal Server Error.
    pub internal: f64,
    /// A watch from a resource version is answered 410 Gone.
    pub gone: f64,
}

/// A misbehaviour that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "misbehaviour {0:?} is unknown; wanted are slow=MS, reorder=MS (as 200ms or 2s) and disconnect, stale, duplicate, \
     429, 500, gone (as disconnect=0.1)"
)]
pub struct UnknownMisbehaviour(String);

fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 1),
        None => (text.strip_suffix('s')?, 1000),
    };
    number.parse::<u32>().ok().map(|n| Duration::from_millis(u64::from(n) * unit))
}

fn chance(text: &str) -> Option<f64> {
    text.parse().ok().filter(|p| (0.0..=1.0).contains(p))
}

impl FromStr for Misbehaviour {
    type Err = UnknownMisbehaviour;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut all = Misbehaviour::default();
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty() && *p != "none") {
            let unknown = || UnknownMisbehaviour(part.to_string());
            let (name, value) = part.split_once('=').ok_or_else(unknown)?;
            match name {
                "slow" => all.slow = duration(value).ok_or_else(unknown)?,
                "reorder" => all.reorder = duration(value).ok_or_else(unknown)?,
                "disconnect" => all.disconnect = chance(value).ok_or_else(unknown)?,
                "stale" => all.stale = chance(value).ok_or_else(unknown)?,
                "duplicate" => all.duplicate = chance(value).ok_or_else(unknown)?,
                "429" => all.too_many = chance(value).ok_or_else(unknown)?,
                "500" => all.internal = chance(value).ok_or_else(unknown)?,
                "gone" => all.gone = chance(value).ok_or_else(unknown)?,
                _ => return Err(unknown()),
            }
        }
        Ok(all)
    }
}

impl fmt::Display for Misbehaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = vec![];
        for (name, value) in [("slow", self.slow), ("reorder", self.reorder)] {
            if !value.is_zero() {
                parts.push(format!("{name}={}ms", value.as_millis()));
            }
        }
        let chances = [
            ("disconnect", self.disconnect),
            ("stale", self.stale),
            ("duplicate", self.duplicate),
            ("429", self.too_many),
            ("500", self.internal),
            ("gone", self.gone),
        ];
        parts.extend(chances.into_iter().filter(|(_, p)| *p > 0.0).map(|(name, p)| format!("{name}={p}")));
        f.write_str(&if parts.is_empty() { "none".into() } else { parts.join(",") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misbehaviour_is_read_and_written() {
        let text = "slow=200ms,reorder=2000ms,disconnect=0.1,stale=0.5,duplicate=1,429=0.25,500=0.125,gone=0.5";
        let all: Misbehaviour = text.parse().expect("misbehaviour");
        assert_eq!(all.reorder, Duration::from_secs(2));
        assert_eq!(all.to_string(), text);
        assert_eq!("reorder=2s".parse::<Misbehaviour>().expect("seconds").reorder, Duration::from_secs(2));
        assert_eq!("none".parse(), Ok(Misbehaviour::default()));
        for wrong in ["slow", "slow=3", "disconnect=2", "disconnect=-1", "disconnect=nan", "late=1"] {
            assert!(wrong.parse::<Misbehaviour>().is_err(), "{wrong}");
        }
    }
}
