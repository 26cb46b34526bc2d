//! The scenario file: schema, checks, runner and report.
//!
//! A scenario says what a cluster looks like, what happens to it and what should be seen. It is written once and
//! played on several [`Stage`]s: in memory with virtual time, or on real kernels. This crate reads the file
//! ([`load`], [`parse`]) with errors that show the place, the mistake and the remedy ([`Diagnostic`]), plays the steps
//! ([`run`]) while printing what the usual tools would print ([`Sink`]), and reports ([`Outcome`], [`junit`]).
//!
//! Deliberately not here: any stage, any agent, any knowledge of kube-router's flags or of Kubernetes objects beyond
//! their kind and name. Flags are text which the caller checks through [`Scenario::check_flags`]; objects are handed
//! to the stage as they were written.
//!
//! Start reading at [`Scenario`] (what a file says) and [`Stage`] (what a stage can be asked).

mod diagnostic;
mod fault;
mod flags;
mod read;
mod report;
mod run;
mod scenario;
mod shape;
mod sink;
mod source;
mod stage;
mod step;
mod text;
mod yaml;

pub use diagnostic::{Diagnostic, render_all};
pub use fault::{Fault, KernelFail, Plane, PodPick};
pub use flags::FlagError;
pub use read::{Files, load, parse, parse_trace};
pub use report::{Outcome, StepOutcome, Verdict, junit, summary_line};
pub use run::{RunOptions, run, unplayed};
pub use scenario::{
    Bfd, Gateways, Lan, MaxPrefixes, Node, Objects, Range, Router, Scenario, Services, Sessions, Software, Tester,
    Timing, Topology,
};
pub use shape::json_schema;
pub use sink::{Event, Silent, Sink, TextSink};
pub use source::{At, Source, Span};
pub use stage::{
    Answer, BfdSession, BgpShow, CniConfig, EndpointState, LoadMode, LoadRequest, LoadResult, MconnectRequest,
    Neighbor, NoticeLine, RealServer, RibPath, Route, Stage, StageError, TraceRequest, TraceResult, VirtualServer,
};
pub use step::{
    Action, Ask, BgpCondition, CniCondition, Condition, Conditions, Count, EndpointsCondition, LoadExpect,
    NeighborCondition, NoticeCondition, Origin, Protocol, RibCondition, RouteCondition, Show, SourceMatch, Step,
    Target, TraceExpect, VirtualServerCondition,
};
