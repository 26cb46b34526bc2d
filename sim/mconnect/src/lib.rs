//! The load tool: many connections to one address, counted by the host that answers.
