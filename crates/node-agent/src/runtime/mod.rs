//! The runtime: the inference server that does the work. Exactly one is active, and the Agent speaks to it through the
//! OpenAI HTTP API.
//!
//! - [`Endpoint`] asks it: one run of a job, streamed or not, or whether it is healthy.
//! - [`Supervisor`] keeps it there: a server of the operator's ([`Plan::External`]) is watched; a program
//!   ([`Plan::Process`]) is checked by its digest, started in the sandbox, watched, and started again; so is a container
//!   ([`Plan::Container`]), made from the image of its digest and closed by its engine.
//! - [`sandbox`] is what stands between a program and this machine.
//!
//! Limits: an answer has at most [`node_types::job::OUTPUT_BYTES_MAX`] bytes. Nothing here logs a prompt or an answer;
//! what a program prints is handed out line by line ([`Supervisor::lines`]), so a program must not print them either.
//!
//! Left out: several runtimes at once. Models are not fetched here. The digest
//! covers the program's file, not the libraries or packages that it loads.

mod assembly;
mod body;
pub mod container;
mod endpoint;
mod error;
mod events;
mod identity;
mod launch;
mod lines;
pub mod sandbox;
mod supervisor;

pub use container::{ContainerError, ContainerPlan, ImageFacts};
pub use endpoint::{Endpoint, test_inference};
pub use error::{InferenceError, RuntimeError};
pub use launch::{ModelsMount, ProcessPlan};
pub use supervisor::{Plan, State, Supervisor, Tuning};
