//! The demo: a small network and a node on this machine, and a tour of what can happen to them.
//!
//! Network and node are processes of their own, the same binary as this, so that SIGKILL is SIGKILL. What is checked is
//! asked of the network, and of the node's store beside the running Agent.

mod folder;
mod network;
mod program;
mod stage;
mod story;
mod tour;

use std::path::Path;

pub(crate) use stage::{Stage, template};
pub(crate) use story::{Story, Told};

use crate::{failure::Failure, out::Out};

/// Plays the tour. With `keep` network and node run on, and what is said last is where to look.
///
/// # Errors
/// [`Failure`] where the tour cannot go on; a check that does not hold is told, and the tour goes on.
pub(crate) fn play(
    out: Out,
    folder: &Path,
    runtime: &Path,
    models: &Path,
    images: Option<&Path>,
    keep: bool,
) -> Result<Told, Failure> {
    let mut story = Story::new(out);
    let mut stage = Stage::set(folder, runtime, models, images)?;
    let mut born = tour::birth(&mut story, &mut stage)?;
    tour::prompts(&mut story, &stage, &born)?;
    tour::killed(&mut story, &mut stage, &mut born)?;
    tour::offline(&mut story, &mut stage)?;
    tour::drifted(&mut story, &mut stage)?;
    tour::snapshots(&mut story, &stage)?;
    tour::expiry(&mut story, &stage)?;
    tour::other_network(&mut story, &stage)?;
    tour::contained(&mut story, &mut stage)?;
    tour::logs(&mut story, &mut stage)?;
    if keep {
        stage.start_node()?;
        stage.await_active()?;
        let (url, folder, binary) = (stage.devnet.url.clone(), stage.folder.clone(), stage.binary.clone());
        let ids: Vec<String> = stage.let_go().iter().map(ToString::to_string).collect();
        if !out.is_json() {
            let folder = folder.display();
            out.raw(&format!(
                "\nBoth run on. Any OpenAI client: base URL {url}/v1, any key, model {}.\n\
                 The node: {} --home {folder}/home status\nWhat the network knows: {url}/v1/devnet/state\n\
                 Logs: {folder}/node.log, {folder}/network.log\nTo end them: kill {}\n",
                stage::MODEL,
                binary.display(),
                ids.join(" "),
            ))?;
        }
    }
    Ok(story.end())
}
