//! `--cleanup-config`: takes away what is ours.

use std::time::{Duration, Instant};

use fairway_agent::{Cleanup, Removed, serve};
use fairway_backend_route::PodSpaces;
use fairway_desired::{Fault, Outcome, PlaneId};
use fairway_objects::NodeConfig;

use crate::kernel::{OpenError, RealKernel};

/// How long a kernel that says "busy" is asked again.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is left after a cleanup. With nothing in it the node has nothing of ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CleanedUp {
    /// Entries that could not be removed, and what the kernel said.
    pub left: Vec<(PlaneId, String, Outcome)>,
    /// Planes that could not be looked at, or not written.
    pub faults: Vec<(PlaneId, Fault)>,
    /// The kernel was busy for so long that we gave up.
    pub gave_up: bool,
}

impl CleanedUp {
    /// Whether all is gone.
    pub fn is_clean(&self) -> bool {
        *self == CleanedUp::default()
    }
}

/// Removes what is ours in the network namespace of the calling thread, and in the pods that `pods` finds. `each` is told of every entry that went.
///
/// # Errors
/// If the system gives no sockets.
pub fn clean_up(
    config: &NodeConfig,
    pods: Option<PodSpaces>,
    mut each: impl FnMut(&Removed),
) -> Result<CleanedUp, OpenError> {
    let (mut kernel, absent) = RealKernel::open_for_cleanup(config, pods)?;
    let mut cleanup = Cleanup::new(config, &absent);
    let epoch = Instant::now();
    loop {
        while let Some(request) = cleanup.poll(epoch.elapsed()) {
            if let Some(answer) = serve(request, &mut kernel) {
                cleanup.handle(epoch.elapsed(), answer);
            }
            cleanup.removed().iter().for_each(&mut each);
        }
        let Some(at) = cleanup.deadline().filter(|at| *at < PATIENCE) else { break };
        std::thread::sleep(at.saturating_sub(epoch.elapsed()));
    }
    Ok(CleanedUp { left: cleanup.left(), faults: cleanup.faults(), gave_up: !cleanup.is_over() })
}
