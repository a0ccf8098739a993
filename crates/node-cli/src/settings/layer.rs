//! One source of settings: the file, the environment or the flags.

use std::{collections::BTreeMap, ffi::OsString, path::Path};

use node_agent::address;

use super::{CONFIG, FILE_BYTES_MAX, Form, KEYS, MOVED, PREFIX, SettingsError, hint, variable};
use crate::{files, surroundings::Surroundings};

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Given {
    /// One text or path, or several paths.
    pub(super) values: Vec<OsString>,
    /// For an error: `--network`, `RESULTITY_NETWORK` or `network in node.toml`.
    pub(super) origin: String,
}

/// What one source says, by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Layer(BTreeMap<&'static str, Given>);

impl Layer {
    /// What this source says of a key.
    pub(super) fn get(&self, name: &str) -> Option<&Given> {
        self.0.get(name)
    }

    /// The first value that is empty: a variable of the shell that was not set, most likely.
    pub(super) fn first_empty(&self) -> Option<&Given> {
        self.0.values().find(|given| given.values.iter().any(|value| value.is_empty()))
    }

    /// What a flag says, if it was given.
    pub(crate) fn flag(&mut self, name: &'static str, value: Option<impl Into<OsString>>) {
        self.flags(name, value.into_iter().map(Into::into).collect());
    }

    /// What a flag says that may be given several times.
    pub(crate) fn flags(&mut self, name: &'static str, values: Vec<OsString>) {
        if !values.is_empty() {
            let origin = format!("--{}", name.replace(['.', '_'], "-"));
            self.0.insert(name, Given { values, origin });
        }
    }

    /// What the environment says.
    ///
    /// # Errors
    /// [`SettingsError::UnknownVariable`].
    pub(super) fn of_environment(surroundings: &Surroundings) -> Result<Self, SettingsError> {
        let known: Vec<(String, &(&'static str, Form))> =
            KEYS.iter().map(|key| (variable(key.0), key)).collect();
        let mut layer = Self::default();
        for (name, value) in surroundings.variables.iter().filter(|(name, _)| name.starts_with(PREFIX)) {
            if name == CONFIG {
                continue;
            }
            if let Some((_, now)) = MOVED.iter().find(|(was, _)| variable(was) == *name) {
                return Err(SettingsError::Moved { origin: name.clone(), now: variable(now) });
            }
            let Some((_, (key, form))) = known.iter().find(|(known, _)| known == name) else {
                let names = known.iter().map(|(known, _)| known.as_str()).chain([CONFIG]);
                return Err(SettingsError::UnknownVariable { name: name.clone(), hint: hint(name, names) });
            };
            if value.is_empty() {
                continue;
            }
            let values = match form {
                Form::Text | Form::Path => vec![value.clone()],
                Form::Paths => std::env::split_paths(value).map(Into::into).collect(),
            };
            layer.0.insert(*key, Given { values, origin: name.clone() });
        }
        Ok(layer)
    }

    /// What a file says; nothing where it is not there.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub(super) fn of_file(path: &Path) -> Result<Option<Self>, SettingsError> {
        let unreadable = |source| SettingsError::Read { path: path.to_owned(), source };
        let Some(bytes) = files::read_if_there(path, FILE_BYTES_MAX).map_err(unreadable)? else {
            return Ok(None);
        };
        let text = std::str::from_utf8(&bytes)
            .map_err(|error| unreadable(std::io::Error::new(std::io::ErrorKind::InvalidData, error)))?;
        Self::of_text(text, path).map(Some)
    }

    /// What the text of the file at `path` says.
    pub(super) fn of_text(text: &str, path: &Path) -> Result<Self, SettingsError> {
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| SettingsError::NotToml {
            path: path.to_owned(),
            problem: address::shown_in_settings(&error.to_string()),
        })?;
        let mut layer = Self::default();
        for (name, value) in table {
            match value.as_table().filter(|_| is_table(&name)) {
                Some(inner) => {
                    for (inner_name, value) in inner {
                        layer.put(&format!("{name}.{inner_name}"), value, path)?;
                    }
                }
                None => layer.put(&name, &value, path)?,
            }
        }
        Ok(layer)
    }

    fn put(&mut self, name: &str, value: &toml::Value, path: &Path) -> Result<(), SettingsError> {
        if let Some((_, now)) = MOVED.iter().find(|(was, _)| *was == name) {
            let origin = format!("{name} in {}", path.display());
            return Err(SettingsError::Moved { origin, now: (*now).to_owned() });
        }
        let Some((key, form)) = KEYS.iter().find(|(key, _)| *key == name) else {
            let tables = KEYS.iter().filter_map(|(key, _)| key.split_once('.')).map(|(table, _)| table);
            let names = KEYS.iter().map(|(key, _)| *key).chain(tables);
            let (path, hint) = (path.to_owned(), hint(name, names));
            return Err(SettingsError::UnknownKey { path, name: name.to_owned(), hint });
        };
        let origin = format!("{name} in {}", path.display());
        let wrong = |found: &toml::Value| SettingsError::Value {
            origin: origin.clone(),
            found: shown(found),
            wanted: match form {
                Form::Text => "a text in quotes".to_owned(),
                Form::Path => "a path in quotes".to_owned(),
                Form::Paths => "a list of paths in quotes, as in [\"/srv/a\"]".to_owned(),
            },
        };
        let values = match (form, value) {
            (Form::Text, toml::Value::Integer(number)) => vec![number.to_string()],
            (Form::Text, toml::Value::Boolean(truth)) => vec![truth.to_string()],
            (Form::Text | Form::Path, toml::Value::String(text)) => vec![text.clone()],
            (Form::Paths, toml::Value::Array(items)) => items
                .iter()
                .map(|item| item.as_str().map(str::to_owned).ok_or_else(|| wrong(value)))
                .collect::<Result<_, _>>()?,
            _ => return Err(wrong(value)),
        };
        if values.iter().any(String::is_empty) {
            let wanted = "something, or not be set".to_owned();
            return Err(SettingsError::Value { origin, found: shown(value), wanted });
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        let placed = |text: String| match form {
            Form::Text => text.into(),
            Form::Path | Form::Paths => folder.join(text).into(),
        };
        self.0.insert(*key, Given { values: values.into_iter().map(placed).collect(), origin });
        Ok(())
    }
}

/// A value that is wrong, in a few words.
fn shown(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Integer(number) => number.to_string(),
        toml::Value::Boolean(truth) => truth.to_string(),
        toml::Value::Float(_) | toml::Value::Datetime(_) | toml::Value::Array(_) | toml::Value::Table(_) => {
            format!("a {}", value.type_str())
        }
    }
}

/// Whether some key lies in a table of this name.
fn is_table(name: &str) -> bool {
    KEYS.iter().any(|(key, _)| key.split_once('.').is_some_and(|(table, _)| table == name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Result<Layer, SettingsError> {
        Layer::of_text(text, Path::new("/etc/resultity/node.toml"))
    }

    #[test]
    fn every_key_has_its_own_variable() {
        let mut variables: Vec<String> = KEYS.iter().map(|(key, _)| variable(key)).collect();
        variables.push(CONFIG.to_owned());
        let all = variables.len();
        variables.sort();
        variables.dedup();
        assert_eq!(variables.len(), all);
    }

    #[test]
    fn paths_in_a_file_start_at_its_folder() {
        let layer = file("network = \"testnet\"\nshutdown_grace_ms = 5\n[runtime]\nfolder = \"rt\"\nreadable = [\"/usr\", \"venv\"]").unwrap();
        let values = |name: &str| layer.get(name).unwrap().values.clone();
        assert_eq!(values("network"), ["testnet"]);
        assert_eq!(values("shutdown_grace_ms"), ["5"]);
        assert_eq!(values("runtime.folder"), ["/etc/resultity/rt"]);
        assert_eq!(values("runtime.readable"), ["/usr", "/etc/resultity/venv"]);
    }

    #[test]
    fn what_is_unknown_in_a_file_is_named_with_what_may_have_been_meant() {
        for (text, wrong, meant) in [
            ("netwrok = \"testnet\"", "netwrok", "network"),
            ("[keys]\npassphrase_fil = \"x\"", "keys.passphrase_fil", "keys.passphrase_file"),
            ("[runtimes]\nurl = \"x\"", "runtimes", "runtime"),
        ] {
            let error = file(text).unwrap_err().to_string();
            assert!(error.contains("/etc/resultity/node.toml"), "{error}");
            assert!(error.contains(&format!("{wrong:?}")), "{error}");
            assert!(error.ends_with(&format!("did you mean {meant}?")), "{error}");
        }
        let error = file("colour_of_the_case = 1").unwrap_err().to_string();
        assert!(!error.contains("did you mean"), "{error}");
    }

    #[test]
    fn what_has_moved_is_said_with_its_new_name() {
        let error = file("[runtime]\nmodels = \"x\"").unwrap_err().to_string();
        assert!(error.contains("runtime.models in /etc/resultity/node.toml"), "{error}");
        assert!(error.contains("it is models.folders"), "{error}");
        let mut surroundings = Surroundings::default();
        surroundings.variables.insert("RESULTITY_RUNTIME_MODELS".into(), "x".into());
        let error = Layer::of_environment(&surroundings).unwrap_err().to_string();
        assert!(error.contains("it is RESULTITY_MODELS_FOLDERS"), "{error}");
    }

    #[test]
    fn a_value_of_another_form_is_refused_by_name() {
        for text in [
            "home = \"\"",
            "home = 3",
            "network = [\"testnet\"]",
            "[runtime]\nreadable = \"/usr\"",
            "[runtime]\nreadable = [1]",
        ] {
            let error = file(text).unwrap_err();
            assert!(matches!(error, SettingsError::Value { .. }), "{text}: {error}");
        }
        assert!(matches!(file("network ="), Err(SettingsError::NotToml { .. })));
    }

    #[test]
    fn variables_are_read_by_the_same_list() {
        let with = |name: &str, value: &str| {
            let mut surroundings = Surroundings::default();
            surroundings.variables.insert(name.into(), value.into());
            surroundings.variables.insert("PATH".into(), "/bin".into());
            Layer::of_environment(&surroundings)
        };
        assert_eq!(
            with("RESULTITY_RUNTIME_READABLE", "/a:/b").unwrap().get("runtime.readable").unwrap().values,
            ["/a", "/b"]
        );
        assert_eq!(with("RESULTITY_CONFIG", "x").unwrap(), Layer::default());
        assert_eq!(with("RESULTITY_NETWORK", "").unwrap(), Layer::default(), "empty is not set");
        let error = with("RESULTITY_NETWROK", "testnet").unwrap_err().to_string();
        assert!(error.contains("did you mean RESULTITY_NETWORK?"), "{error}");
    }
}
