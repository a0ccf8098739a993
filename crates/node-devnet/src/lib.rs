//! A small network for one machine.
