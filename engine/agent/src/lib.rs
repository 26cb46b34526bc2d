//! One whole node, sans-I/O: compute, reconcile and BGP behind one input and one output.
