//! What kube-router left on the node: which of it goes, and when.

pub use fairway_backend_legacy::{Leftover, Part};
use fairway_backend_legacy::{Legacy, LookError};
use fairway_objects::NodeConfig;

/// Parts of kube-router whose rules a daemon with this configuration takes away as soon as it is in sync, because its
/// own do the same from then on and both would act together: stale sets would reject new ports of services, and
/// masquerade what ours would not.
///
/// Policies stay as long as nothing of ours replaces them, and the rules that accept pods' traffic do no harm: those go
/// with `--cleanup-config --from-kube-router` only.
pub fn replaced(config: &NodeConfig) -> Vec<Part> {
    let proxy = config.run_service_proxy.then_some(Part::Proxy);
    let egress = (config.run_router && config.enable_pod_egress).then_some(Part::Egress);
    proxy.into_iter().chain(egress).collect()
}

/// Removes what kube-router left of these parts from the network namespace of the calling thread, and tells of each
/// entry what became of it. Returns what it left of other parts.
///
/// # Errors
/// If the kernel does not say what there is.
pub fn remove_leftovers(
    parts: &[Part],
    mut each: impl FnMut(&Leftover, &Result<(), String>),
) -> Result<Vec<Leftover>, LookError> {
    let mut legacy = Legacy::open()?;
    let (go, stay): (Vec<Leftover>, Vec<Leftover>) =
        legacy.observe()?.into_iter().partition(|leftover| parts.contains(&leftover.part));
    let results = legacy.remove(&go);
    go.iter().zip(&results).for_each(|(leftover, result)| each(leftover, result));
    Ok(stay)
}

/// What kube-router left, without touching it.
///
/// # Errors
/// If the kernel does not say.
pub fn leftovers() -> Result<Vec<Leftover>, LookError> {
    Legacy::open()?.observe()
}
