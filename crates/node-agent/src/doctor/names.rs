//! What a name in the volume's folder says of whose it is.

use std::{ffi::OsStr, path::Path};

use node_store::{
    keys,
    volume::{Named, named},
};

use super::{facts::LeftoverKind, mend};

/// What lies about at this path of the volume in `folder`, by its name alone; nothing where the node itself puts something
/// there. What is outside of the volume the node was told of; in the folders of models and of the doctor the rows and the
/// records tell.
pub(super) fn leftover(folder: &Path, path: &Path) -> Option<LeftoverKind> {
    let within = path.strip_prefix(folder).ok()?;
    let names: Vec<&OsStr> = within.iter().collect();
    match names.as_slice() {
        [] => None,
        [above, _, ..] if *above == "models" || *above == mend::FOLDER => None,
        [.., name] if is_temporary(&name.to_string_lossy()) => Some(LeftoverKind::Temporary),
        [name] if *name == mend::FOLDER => None,
        [name] => match named(name) {
            Some(Named::Part) => None,
            Some(Named::Damaged) => Some(LeftoverKind::Damaged),
            Some(Named::OldFormat) => Some(LeftoverKind::OldFormat),
            None => Some(LeftoverKind::Foreign),
        },
        [above, name] if *above == "keys" && keys::is_own_name(name) => None,
        [..] => Some(LeftoverKind::Foreign),
    }
}

/// As the store names what it has not published yet.
fn is_temporary(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(".tmp")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_whose_it_is() {
        let told = |path: &str| leftover(Path::new("/v"), Path::new(path));
        let ours =
            ["/v", "/v/state.db", "/v/jobs.db-wal", "/v/LOCK", "/v/keys", "/v/keys/node.key", "/v/doctor"];
        for path in ours.into_iter().chain(["/v/models/x", "/v/models/.x.tmp", "/v/doctor/x", "/etc/pass"]) {
            assert_eq!(told(path), None, "{path}");
        }
        for path in ["/v/.LOCK.tmp", "/v/keys/.node.key.tmp"] {
            assert_eq!(told(path), Some(LeftoverKind::Temporary), "{path}");
        }
        for path in ["/v/notes.txt", "/v/keys/notes.txt", "/v/keys/state.db", "/v/node.key", "/v/x/state.db"]
        {
            assert_eq!(told(path), Some(LeftoverKind::Foreign), "{path}");
        }
    }
}
