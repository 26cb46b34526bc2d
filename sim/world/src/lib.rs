//! Agents, kernels, links and virtual time in one deterministic event queue.
