//! The scenario file: schema, checks, runner and report.
