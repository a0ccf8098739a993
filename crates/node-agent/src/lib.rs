//! The Agent of a Resultity node.
