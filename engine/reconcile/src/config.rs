/// Time since an arbitrary epoch that the driver chooses; also spans of time.
pub type Time = core::time::Duration;

/// How a [`crate::Reconciler`] paces itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Most ops in one apply; at least 1. It bounds how long a synchronous backend keeps its caller.
    pub batch_max: usize,
    /// First wait after `Busy` and after a repeated fault. It doubles with each failure.
    pub backoff_min: Time,
    /// Longest such wait, and the wait after a fault that only an operator can repair.
    pub backoff_max: Time,
    /// Mean interval between observations. Each interval is drawn from three quarters to five quarters of it, so
    /// that nodes started together do not stay together.
    pub resync: Time,
    /// How long after a change by somebody else the table is observed: changes come in bursts.
    pub suspect_wait: Time,
    /// Shortest pause between two observations because of somebody else's changes.
    pub suspect_pause: Time,
    /// An apply is one transaction: all ops take effect or none. A refused transaction of several ops is sent again
    /// in halves, until the guilty op stands alone.
    pub transactional: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            batch_max: 1_000,
            backoff_min: Time::from_millis(100),
            backoff_max: Time::from_secs(30),
            resync: Time::from_secs(60),
            suspect_wait: Time::from_millis(20),
            suspect_pause: Time::from_secs(1),
            transactional: false,
        }
    }
}
