//! Artifacts (models, containers, the Agent, the configuration), their hashes, and the pure
//! function that judges them.
