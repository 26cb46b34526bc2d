use fairway_desired::{Addr, Backend, File, Filter, Ipvs, Link, PlaneId, Pod, Route, Rule, Sysctl};

use crate::{Applied, Batch, Input, Observation, Output};

/// A backend for every plane outside the agent. Implemented by whatever is one.
pub trait Kernel:
    Backend<Sysctl>
    + Backend<Link>
    + Backend<Addr>
    + Backend<Filter>
    + Backend<Rule>
    + Backend<Route>
    + Backend<Pod>
    + Backend<Ipvs>
    + Backend<File>
{
}

impl<B> Kernel for B where
    B: Backend<Sysctl>
        + Backend<Link>
        + Backend<Addr>
        + Backend<Filter>
        + Backend<Rule>
        + Backend<Route>
        + Backend<Pod>
        + Backend<Ipvs>
        + Backend<File>
{
}

/// Carries out a request on a kernel and returns the answer to feed back. `None` if the output is no request to a
/// kernel: BGP's connections, BFD's packets, the API server and notices are the driver's own business.
pub fn serve<B: Kernel>(output: Output, backend: &mut B) -> Option<Input> {
    let input = match output {
        Output::Observe(plane) => Input::Observed(match plane {
            PlaneId::Sysctl => Observation::Sysctl(Backend::<Sysctl>::observe(backend)),
            PlaneId::Link => Observation::Link(Backend::<Link>::observe(backend)),
            PlaneId::Addr => Observation::Addr(Backend::<Addr>::observe(backend)),
            PlaneId::Filter => Observation::Filter(Backend::<Filter>::observe(backend)),
            PlaneId::Rule => Observation::Rule(Backend::<Rule>::observe(backend)),
            PlaneId::Route => Observation::Route(Backend::<Route>::observe(backend)),
            PlaneId::Pod => Observation::Pod(Backend::<Pod>::observe(backend)),
            PlaneId::Ipvs => Observation::Ipvs(Backend::<Ipvs>::observe(backend)),
            PlaneId::File => Observation::File(Backend::<File>::observe(backend)),
            PlaneId::Bgp => return None,
        }),
        Output::Apply(batch) => Input::Applied(match batch {
            Batch::Sysctl(ops) => Applied::Sysctl(backend.apply(&ops)),
            Batch::Link(ops) => Applied::Link(backend.apply(&ops)),
            Batch::Addr(ops) => Applied::Addr(backend.apply(&ops)),
            Batch::Filter(ops) => Applied::Filter(backend.apply(&ops)),
            Batch::Rule(ops) => Applied::Rule(backend.apply(&ops)),
            Batch::Route(ops) => Applied::Route(backend.apply(&ops)),
            Batch::Pod(ops) => Applied::Pod(backend.apply(&ops)),
            Batch::Ipvs(ops) => Applied::Ipvs(backend.apply(&ops)),
            Batch::File(ops) => Applied::File(backend.apply(&ops)),
        }),
        Output::Bgp(_) | Output::Bfd(_) | Output::Api(_) | Output::Notice(_) => return None,
    };
    Some(input)
}
