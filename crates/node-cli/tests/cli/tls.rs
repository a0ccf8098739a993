//! An authority of this test's own, and a server of files whose certificate it has signed: TLS as a source of models has it.

use std::{
    collections::BTreeMap,
    io::{self, BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    ops::Range,
    path::PathBuf,
    sync::{Arc, Mutex},
    thread,
};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{ServerConfig, ServerConnection, StreamOwned, pki_types::PrivatePkcs8KeyDer};

use crate::home::Home;

/// An authority that nobody has heard of but who is shown its certificate.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate, for `SSL_CERT_FILE`.
    pub(crate) path: PathBuf,
}

impl Authority {
    pub(crate) fn new(home: &Home, name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), path: home.file(&format!("{name}.pem"), pem) }
    }
}

/// The path of each request, and the part of the file that it asked for; `None` for all of it.
type Asked = Vec<(String, Option<Range<usize>>)>;

/// A server of files over TLS, for as long as the test runs.
pub(crate) struct Source {
    pub(crate) url: String,
    asked: Arc<Mutex<Asked>>,
}

impl Source {
    /// Serves these files by their paths, as `localhost`.
    pub(crate) fn start(authority: &Authority, files: BTreeMap<String, Vec<u8>>) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &authority.issuer).unwrap();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.unwrap().with_no_client_auth();
        let config = Arc::new(config.with_single_cert(vec![certificate.der().clone()], key.into()).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
        let (asked, files) = (Arc::default(), Arc::new(files));
        let source = Self { url, asked: Arc::clone(&asked) };
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (config, files, asked) = (Arc::clone(&config), Arc::clone(&files), Arc::clone(&asked));
                // Whoever does not trust it hangs up.
                thread::spawn(move || serve(stream?, config, &files, &asked));
            }
        });
        source
    }

    pub(crate) fn asked(&self) -> Asked {
        self.asked.lock().unwrap().clone()
    }
}

/// Answers one request.
fn serve(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    files: &BTreeMap<String, Vec<u8>>,
    asked: &Mutex<Asked>,
) -> io::Result<()> {
    let connection = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut reader = BufReader::new(StreamOwned::new(connection, stream));
    let (mut first, mut line, mut range) = (String::new(), String::new(), None);
    reader.read_line(&mut first)?;
    while {
        line.clear();
        reader.read_line(&mut line)?
    } > 2
    {
        if let Some((name, value)) = line.trim_end().split_once(": ")
            && name.eq_ignore_ascii_case("range")
        {
            let (from, to) = value.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
            range = Some(from.parse().unwrap()..to.parse::<usize>().unwrap() + 1);
        }
    }
    let path = first.split(' ').nth(1).unwrap().trim_start_matches('/').to_owned();
    asked.lock().unwrap().push((path.clone(), range.clone()));
    let mut stream = reader.into_inner();
    match (files.get(&path), range) {
        (Some(file), Some(range)) => {
            let (last, part) = (range.end - 1, &file[range.clone()]);
            write!(
                stream,
                "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {}-{last}/{}\r\nContent-Length: {}\r\n\
                 Connection: close\r\n\r\n",
                range.start,
                file.len(),
                part.len()
            )?;
            stream.write_all(part)?;
        }
        (Some(_), None) | (None, _) => {
            stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
        }
    }
    stream.conn.send_close_notify();
    stream.flush()
}
