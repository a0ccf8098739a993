//! The three layers, one upon the other, and the Agent's settings made of them.

use std::{
    ffi::OsStr,
    net::SocketAddr,
    num::{NonZeroU32, NonZeroU64},
    path::{Component, Path, PathBuf},
    str::FromStr,
};

use node_agent::{
    address::{self, Whose},
    settings::{
        ExportSettings, KeySettings, LogFileSettings, ModelSettings, OtlpSettings, PAGE_LISTEN, PageSettings,
        RuntimeSettings, SCRUB_MS, SHUTDOWN_GRACE_MS, Settings,
    },
};
use node_types::Network;

use super::{CONFIG, FILE, Layer, SYSTEM, SettingsError, layer::Given, variable};
use crate::surroundings::Surroundings;

/// The network where nothing says another: the one where a mistake costs nothing.
const NETWORK: Network = Network::Testnet;

/// The settings of all sources.
#[derive(Clone, Debug)]
pub(crate) struct Values {
    /// Highest first: flags, environment, file.
    layers: [Layer; 3],
    home: PathBuf,
    /// How the command line is called for this home, without the network.
    called: String,
}

impl Values {
    /// Reads environment and file, and puts the flags above them. `config` is the file that a flag names.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub(crate) fn read(
        flags: Layer,
        config: Option<&Path>,
        surroundings: &Surroundings,
    ) -> Result<Self, SettingsError> {
        if let Some(empty) = flags.first_empty() {
            return Err(wrong(empty, "something, or not be given"));
        }
        let environment = Layer::of_environment(surroundings)?;
        let named = config.or_else(|| surroundings.variable(CONFIG).map(Path::new));
        let file = match named {
            Some(path) => Layer::of_file(path)?.ok_or_else(|| SettingsError::Read {
                path: path.to_owned(),
                source: rustix::io::Errno::NOENT.into(),
            })?,
            None => Layer::default(),
        };
        let layers = [flags, environment, file];
        let mut values = Self { layers, home: PathBuf::new(), called: "resultity-node".to_owned() };
        values.home = match values.path("home") {
            // The store names its folders in full.
            Some(home) => std::path::absolute(&home).unwrap_or(home),
            None => usual_home(surroundings).ok_or(SettingsError::NoHome)?,
        };
        if usual_home(surroundings).is_none_or(|usual| usual != values.home) {
            values.called += &format!(" --home {}", quoted(&values.home));
        }
        if let Some(config) = config {
            let config = std::path::absolute(config).unwrap_or_else(|_| config.to_owned());
            values.called += &format!(" --config {}", quoted(&config));
        }
        if named.is_none() {
            let path = values.file();
            if let Some(file) = Layer::of_file(&path)? {
                if file.get("home").is_some() {
                    return Err(SettingsError::HomeInHome { path });
                }
                values.layers[2] = file;
            }
        }
        Ok(values)
    }

    /// Where the settings of this home stand, where no other file is named.
    pub(crate) fn file(&self) -> PathBuf {
        let (home, file) = SYSTEM;
        file_of(&self.home, Path::new(home), Path::new(file))
    }

    fn given(&self, name: &str) -> Option<&Given> {
        self.layers.iter().find_map(|layer| layer.get(name))
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.paths(name).into_iter().next()
    }

    /// Paths as they are from anywhere: the Agent's processes work in folders of their own.
    fn paths(&self, name: &str) -> Vec<PathBuf> {
        let given = self.given(name).into_iter().flat_map(|given| &given.values);
        given.map(|path| placed(Path::new(path))).collect()
    }

    fn text(&self, name: &str, wanted: &str) -> Result<Option<String>, SettingsError> {
        let Some(given) = self.given(name) else { return Ok(None) };
        let text = given.values.first().and_then(|value| value.to_str()).map(str::to_owned);
        text.map(Some).ok_or_else(|| wrong(given, wanted))
    }

    fn parsed<T: FromStr>(&self, name: &str, wanted: &str) -> Result<Option<T>, SettingsError> {
        let (text, given) = (self.text(name, wanted)?, self.given(name));
        text.zip(given).map(|(text, given)| text.parse().map_err(|_| wrong(given, wanted))).transpose()
    }

    /// An address that `check` finds nothing wrong with.
    fn url(&self, name: &str, whose: &str, of: Whose) -> Result<Option<String>, SettingsError> {
        let (url, given) = (self.text(name, "a URL")?, self.given(name));
        if let (Some(url), Some(given)) = (&url, given) {
            address::parse(url, of)
                .map_err(|problem| wrong(given, &format!("{whose} address: {problem}")))?;
        }
        Ok(url)
    }

    /// The Agent's settings. Without a network's URL it is empty; [`Self::require`] asks for it.
    ///
    /// # Errors
    /// [`SettingsError::Value`].
    pub(crate) fn settings(&self) -> Result<Settings, SettingsError> {
        let network = self.parsed("network", "testnet or mainnet")?.unwrap_or(NETWORK);
        let mut command = self.called.clone();
        if network != NETWORK {
            command += &format!(" --network {network}");
        }
        Ok(Settings {
            command,
            home: self.home.clone(),
            network,
            network_url: self.url("network_url", "the network's", Whose::Network)?.unwrap_or_default(),
            keyset_digest: self.parsed("keyset_digest", "sha256: and 64 lower-case hex digits")?,
            keys: KeySettings {
                secret_file: self.path("keys.secret_file"),
                passphrase_file: self.path("keys.passphrase_file"),
            },
            runtime: RuntimeSettings {
                url: self.url("runtime.url", "a server's", Whose::Runtime)?,
                api_key_file: self.path("runtime.api_key_file"),
                folder: self.path("runtime.folder"),
                work: self.path("runtime.work"),
                readable: self.paths("runtime.readable"),
                user: self.text("runtime.user", "a user's name")?,
                socket: self.path("runtime.socket"),
                images: self.path("runtime.images"),
            },
            models: ModelSettings {
                folders: self.paths("models.folders"),
                scrub_ms: self
                    .parsed("models.scrub_ms", "a number of milliseconds, 1 or more")?
                    .map_or(SCRUB_MS, NonZeroU64::get),
            },
            page: self.page()?,
            exports: ExportSettings { otlp: self.otlp()?, log_file: self.log_file()? },
            shutdown_grace_ms: self
                .parsed("shutdown_grace_ms", "a number of milliseconds")?
                .unwrap_or(SHUTDOWN_GRACE_MS),
        })
    }

    /// Where the status page is.
    fn page(&self) -> Result<PageSettings, SettingsError> {
        let wanted = "an address and a port, as in 127.0.0.1:7413, or off";
        let listen = match self.text("page.listen", wanted)?.as_deref() {
            None => Some(PAGE_LISTEN),
            Some("off") => None,
            Some(_) => self.parsed::<SocketAddr>("page.listen", wanted)?,
        };
        let token_file = self.path("page.token_file");
        if let (Some(listen), None, Some(given)) = (listen, &token_file, self.given("page.listen"))
            && !listen.ip().is_loopback()
        {
            return Err(SettingsError::OpenPage { origin: given.origin.clone(), listen });
        }
        Ok(PageSettings { listen, token_file })
    }

    /// Who gets logs and metrics as OpenTelemetry.
    fn otlp(&self) -> Result<Option<OtlpSettings>, SettingsError> {
        let Some(endpoint) = self.url("otlp.endpoint", "a collector's", Whose::Collector)? else {
            let rest = ["otlp.headers_file", "otlp.required", "otlp.logs", "otlp.metrics", "otlp.metrics_ms"];
            return self.none_of(&rest, "otlp.endpoint");
        };
        let usual = OtlpSettings::at(endpoint);
        Ok(Some(OtlpSettings {
            headers_file: self.path("otlp.headers_file"),
            required: self.truth("otlp.required")?.unwrap_or(usual.required),
            logs: self.truth("otlp.logs")?.unwrap_or(usual.logs),
            metrics: self.truth("otlp.metrics")?.unwrap_or(usual.metrics),
            metrics_ms: self
                .parsed("otlp.metrics_ms", "a number of milliseconds, 1 or more")?
                .map_or(usual.metrics_ms, NonZeroU64::get),
            ..usual
        }))
    }

    /// Which files get logs.
    fn log_file(&self) -> Result<Option<LogFileSettings>, SettingsError> {
        let Some(folder) = self.path("log_file.folder") else {
            let rest = ["log_file.bytes_max", "log_file.files_max", "log_file.required"];
            return self.none_of(&rest, "log_file.folder");
        };
        let usual = LogFileSettings::in_folder(folder);
        let files = self.parsed::<NonZeroU32>("log_file.files_max", "a number of files, 1 or more")?;
        Ok(Some(LogFileSettings {
            bytes_max: self
                .parsed("log_file.bytes_max", "a number of bytes, 1 or more")?
                .map_or(usual.bytes_max, NonZeroU64::get),
            files_max: files.map_or(usual.files_max, NonZeroU32::get),
            required: self.truth("log_file.required")?.unwrap_or(usual.required),
            ..usual
        }))
    }

    fn truth(&self, name: &str) -> Result<Option<bool>, SettingsError> {
        self.parsed(name, "true or false")
    }

    /// Nothing, where none of them is set: they mean nothing without `needs`.
    fn none_of<T>(&self, names: &[&str], needs: &'static str) -> Result<Option<T>, SettingsError> {
        match names.iter().find_map(|name| self.given(name)) {
            Some(given) => Err(SettingsError::Alone { origin: given.origin.clone(), needs }),
            None => Ok(None),
        }
    }

    /// Whether something was said of a key.
    pub(crate) fn is_set(&self, name: &str) -> bool {
        self.given(name).is_some()
    }

    /// The path that a flag gave, in full: the next command needs that flag, too.
    pub(crate) fn path_by_flag(&self, name: &str) -> Option<PathBuf> {
        self.layers[0].get(name)?;
        self.path(name)
    }

    /// Asks for a key that a command cannot do without.
    ///
    /// # Errors
    /// [`SettingsError::Missing`], which says where it can be set.
    pub(crate) fn require(&self, name: &'static str) -> Result<(), SettingsError> {
        if self.given(name).is_some() {
            return Ok(());
        }
        let flag = name.replace(['.', '_'], "-");
        Err(SettingsError::Missing { name, flag, variable: variable(name), file: self.file() })
    }
}

/// A path from the root on. One that goes up leads through folders that a sandbox or another user may not enter, and so is followed
/// to where it leads, if something is there.
fn placed(path: &Path) -> PathBuf {
    // It fails for an empty path alone, and none is.
    let full = std::path::absolute(path).unwrap_or_else(|_| path.into());
    if full.components().all(|part| part != Component::ParentDir) {
        return full;
    }
    let place = match (full.parent(), full.file_name()) {
        // A link that stands there itself stays one: whether one may is for whoever opens it.
        (Some(folder), Some(name)) => std::fs::canonicalize(folder).map(|folder| folder.join(name)),
        _ => std::fs::canonicalize(&full),
    };
    place.unwrap_or(full)
}

fn wrong(given: &Given, wanted: &str) -> SettingsError {
    // An address may have a password in it.
    let found = address::shown(&given.values.join(OsStr::new(":")).to_string_lossy());
    SettingsError::Value { origin: given.origin.clone(), found, wanted: wanted.to_owned() }
}

/// A path as a shell takes it for one word.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-+@%,:".contains(letter);
    if !text.is_empty() && text.chars().all(plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Where the settings of a home stand: in it. For the home of the machine's own node they stand in `/etc` where they are there:
/// whoever looks after that node reads the same as its service.
fn file_of(home: &Path, system_home: &Path, system_file: &Path) -> PathBuf {
    if home == system_home && system_file.exists() { system_file.to_owned() } else { home.join(FILE) }
}

/// Where a node lives unless it is told: `/var/lib/resultity` for root, else in the user's data folder (XDG Base
/// Directory Specification: a relative `XDG_DATA_HOME` is ignored).
fn usual_home(surroundings: &Surroundings) -> Option<PathBuf> {
    if surroundings.root {
        return Some(PathBuf::from(SYSTEM.0));
    }
    let data = surroundings.variable("XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let data = data.or_else(|| Some(Path::new(surroundings.variable("HOME")?).join(".local/share")));
    data.map(|data| data.join("resultity"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn around(variables: &[(&str, &str)]) -> Surroundings {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
        Surroundings { variables, ..Surroundings::default() }
    }

    fn values(flags: &[(&'static str, &str)], environment: &[(&str, &str)], file: &str) -> Values {
        let mut layer = Layer::default();
        for (name, value) in flags {
            layer.flag(name, Some(*value));
        }
        let environment = Layer::of_environment(&around(environment)).unwrap();
        let file = Layer::of_text(file, Path::new("/f/node.toml")).unwrap();
        let called = "resultity-node".to_owned();
        Values { layers: [layer, environment, file], home: PathBuf::from("/h"), called }
    }

    #[test]
    fn the_machines_own_node_has_its_settings_where_the_package_puts_them() {
        let etc = tempfile::tempdir().unwrap();
        let (ours, file) = (Path::new("/var/lib/resultity"), etc.path().join("node.toml"));
        assert_eq!(file_of(ours, ours, &file), ours.join("node.toml"), "no package has put any");
        #[expect(clippy::disallowed_methods, reason = "a test's own file")]
        std::fs::write(&file, "").unwrap();
        assert_eq!(file_of(ours, ours, &file), file);
        assert_eq!(file_of(Path::new("/srv/second"), ours, &file), Path::new("/srv/second/node.toml"));
    }

    #[test]
    fn a_flag_wins_over_a_variable_and_a_variable_over_the_file() {
        let file = "network_url = \"https://file\"\n[runtime]\nurl = \"http://file\"\nuser = \"file\"";
        let environment =
            [("RESULTITY_NETWORK_URL", "https://variable"), ("RESULTITY_RUNTIME_URL", "http://variable")];
        let settings = values(&[("network_url", "https://flag")], &environment, file).settings().unwrap();
        assert_eq!(settings.network_url, "https://flag");
        assert_eq!(settings.runtime.url.as_deref(), Some("http://variable"));
        assert_eq!(settings.runtime.user.as_deref(), Some("file"));
        assert_eq!(settings.shutdown_grace_ms, SHUTDOWN_GRACE_MS);
        assert_eq!(settings.models, ModelSettings::default());
        let file = "[models]\nfolders = [\"a\", \"/b\"]\nscrub_ms = 1";
        let models = values(&[], &[], file).settings().unwrap().models;
        assert_eq!(models, ModelSettings { folders: vec!["/f/a".into(), "/b".into()], scrub_ms: 1 });
        assert_eq!(settings.network, Network::Testnet);
    }

    /// The runtime's sandbox may not enter the home.
    #[test]
    fn a_path_that_leads_up_is_followed_to_where_it_leads() {
        let folder = tempfile::tempdir().unwrap().path().canonicalize().unwrap();
        std::fs::create_dir_all(folder.join("inner")).unwrap();
        let file = format!("[runtime]\nfolder = \"{}/inner/../inner\"", folder.display());
        let runtime = values(&[], &[], &file).settings().unwrap().runtime;
        assert_eq!(runtime.folder, Some(folder.join("inner")));
        std::fs::remove_dir_all(&folder).unwrap();
        let runtime = values(&[], &[], &file).settings().unwrap().runtime;
        assert_eq!(runtime.folder, Some(folder.join("inner/../inner")), "said as it was given");
    }

    #[test]
    fn a_value_that_makes_no_sense_is_said_with_its_place() {
        let file = "shutdown_grace_ms = \"soon\"\nkeyset_digest = \"sha256:AB\"";
        let error = values(&[("network", "moonnet")], &[], file).settings().unwrap_err().to_string();
        assert_eq!(error, "--network is \"moonnet\": it should be testnet or mainnet");
        let error = values(&[], &[("RESULTITY_NETWORK", "x")], file).settings().unwrap_err().to_string();
        assert!(error.starts_with("RESULTITY_NETWORK is \"x\""), "{error}");
        let error = values(&[], &[], file).settings().unwrap_err().to_string();
        assert!(error.starts_with("keyset_digest in /f/node.toml"), "{error}");
        let error = values(&[], &[], "[models]\nscrub_ms = 0").settings().unwrap_err().to_string();
        assert!(error.contains("1 or more"), "{error}");
    }

    #[test]
    fn an_address_is_judged_wherever_it_is_set_and_no_password_of_it_is_repeated() {
        for (file, wanted) in [
            ("network_url = 5", "it is no URL"),
            ("network_url = \"ftp://x\"", "neither https nor http"),
            ("network_url = \"http://192.0.2.1\"", "use https"),
            ("network_url = \"https://example.org/path?x=1\"", "ends with a query"),
            ("network_url = \"https://example.org/#a\"", "ends with a query"),
            ("network_url = \"http://user:s3cretpw@127.0.0.1:7411\"", "a user name or a password"),
            ("network_url = \"http://user:s3cretpw@127.0.0.1:x\"", "it is no URL"),
            ("network_url = \"http://user:s3cretpw/x@127.0.0.1\"", "URL"),
            ("network_url = \"http:/user:s3cretpw@127.0.0.1\"", "a user name or a password"),
            ("network_url = \"user:s3cretpw@host\"", ""),
            ("network_url = \"http://user:s3cretpw?x@127.0.0.1\"", ""),
            ("runtime.url = \"nope\"", "it is no URL"),
            ("runtime.url = \"http://user:s3cretpw@127.0.0.1\"", "put a key into runtime.api_key_file"),
            ("otlp.endpoint = \"http://user:s3cretpw@127.0.0.1\"", "a user name or a password"),
        ] {
            let error = values(&[], &[], file).settings().unwrap_err().to_string();
            assert!(error.contains(wanted) && error.contains(" in /f/node.toml is "), "{error}");
            assert!(!error.contains("s3cretpw"), "{error}");
        }
    }

    #[test]
    fn what_is_to_be_typed_names_home_and_network_where_they_are_not_the_usual_ones() {
        let command = |flags: &[(&'static str, &str)]| {
            let mut layer = Layer::default();
            for (name, value) in flags {
                layer.flag(name, Some(*value));
            }
            Values::read(layer, None, &around(&[("HOME", "/u")])).unwrap().settings().unwrap().command
        };
        assert_eq!(command(&[]), "resultity-node");
        assert_eq!(command(&[("network", "mainnet")]), "resultity-node --network mainnet");
        assert_eq!(command(&[("home", "/u/.local/share/resultity")]), "resultity-node");
        assert_eq!(command(&[("home", "/srv/it's me")]), r"resultity-node --home '/srv/it'\''s me'");
    }

    #[test]
    fn a_collector_and_files_are_set_as_a_whole_or_not_at_all() {
        let exports = |file: &str| values(&[], &[], file).settings().map(|settings| settings.exports);
        assert_eq!(exports("").unwrap(), ExportSettings::default());
        let usual = OtlpSettings::at("http://127.0.0.1:4318".to_owned());
        assert_eq!(
            exports("[otlp]\nendpoint = \"http://127.0.0.1:4318\"").unwrap().otlp,
            Some(usual.clone())
        );
        let all = "[otlp]\nendpoint = \"http://127.0.0.1:4318\"\nheaders_file = \"h\"\nrequired = true\nlogs = false\n\
                   metrics = false\nmetrics_ms = 5\n[log_file]\nfolder = \"l\"\nbytes_max = 7\nfiles_max = 2\nrequired = false";
        let set = exports(all).unwrap();
        let otlp = OtlpSettings {
            headers_file: Some("/f/h".into()),
            required: true,
            logs: false,
            metrics: false,
            metrics_ms: 5,
            ..usual
        };
        assert_eq!(set.otlp, Some(otlp));
        let files = LogFileSettings { folder: "/f/l".into(), bytes_max: 7, files_max: 2, required: false };
        assert_eq!(set.log_file, Some(files));
        for (file, wanted) in [
            ("[otlp]\nrequired = true", "otlp.endpoint"),
            ("[log_file]\nfiles_max = 2", "log_file.folder"),
            ("[otlp]\nendpoint = \"http://10.1.1.1:4318\"", "use https"),
            ("[otlp]\nendpoint = \"http://127.0.0.1\"\nlogs = \"maybe\"", "true or false"),
            ("[log_file]\nfolder = \"l\"\nfiles_max = 0", "1 or more"),
        ] {
            let error = exports(file).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }

    #[test]
    fn the_page_is_for_this_machine_unless_a_token_guards_it() {
        let page = |file: &str| values(&[], &[], file).settings().map(|settings| settings.page);
        assert_eq!(page("").unwrap(), PageSettings::default());
        assert_eq!(page("[page]\nlisten = \"off\"").unwrap(), PageSettings::off());
        assert_eq!(page("[page]\nlisten = \"[::1]:0\"").unwrap().listen, "[::1]:0".parse().ok());
        let open = "[page]\nlisten = \"0.0.0.0:7413\"";
        let error = page(open).unwrap_err().to_string();
        assert!(error.starts_with("page.listen in /f/node.toml is 0.0.0.0:7413"), "{error}");
        assert!(error.contains("--page-token-file"), "{error}");
        let guarded = page(&format!("{open}\ntoken_file = \"t\"")).unwrap();
        assert_eq!(guarded.token_file, Some("/f/t".into()));
        for wrong in ["7413", "localhost:7413", "on"] {
            let error = page(&format!("[page]\nlisten = \"{wrong}\"")).unwrap_err().to_string();
            assert!(error.contains("it should be an address and a port"), "{error}");
        }
    }

    #[test]
    fn what_a_command_needs_is_asked_for_with_every_way_to_set_it() {
        let error = values(&[], &[], "").require("network_url").unwrap_err().to_string();
        for part in ["--network-url", "RESULTITY_NETWORK_URL", "network_url = ", "/h/node.toml"] {
            assert!(error.contains(part), "{part}: {error}");
        }
        values(&[], &[], "network_url = \"x\"").require("network_url").unwrap();
    }

    #[test]
    fn the_usual_home_follows_user_and_xdg() {
        let root = Surroundings { root: true, ..around(&[("XDG_DATA_HOME", "/x")]) };
        assert_eq!(usual_home(&root), Some("/var/lib/resultity".into()));
        for (variables, wanted) in [
            (&[("XDG_DATA_HOME", "/x"), ("HOME", "/u")] as &[_], Some("/x/resultity")),
            (&[("XDG_DATA_HOME", "x"), ("HOME", "/u")], Some("/u/.local/share/resultity")),
            (&[("HOME", "/u")], Some("/u/.local/share/resultity")),
            (&[], None),
        ] {
            assert_eq!(usual_home(&around(variables)), wanted.map(PathBuf::from), "{variables:?}");
        }
    }
}
