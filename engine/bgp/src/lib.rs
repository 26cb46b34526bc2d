//! A sans-I/O BGP speaker: wire format, sessions, RIBs, policy.
