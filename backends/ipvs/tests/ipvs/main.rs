//! The backend on a real kernel. Needs root and a kernel with IPVS; without, the tests say `skipped` and pass.

mod apply;
mod scale;
mod settings;
mod support;
