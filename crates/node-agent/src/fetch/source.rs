//! Where a file comes from: HTTP, or a folder of the operator's. Both give a stream of bytes from some place on.

use std::{
    fs::{self, File},
    io,
    ops::Range,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use reqwest::{Response, StatusCode, Url, header, redirect};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use tokio::time::{Instant, timeout, timeout_at};

use super::error::{Problem, chain};
use crate::{
    address::{self, Whose},
    blocking::blocking,
};

/// How long the opening of a connection may take: 10 seconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a request may be sent elsewhere.
const REDIRECTS_MAX: usize = 5;
/// How much of a local file is read at once: 1 MiB.
const READ_BYTES: u64 = 1 << 20;

/// A source that may be asked.
#[derive(Clone, Debug)]
pub(super) enum Place {
    Http(Url),
    File(Arc<File>),
}

/// A client that is sent on to `https`, and to `http` on loopback only from there, and not often.
pub(super) fn client() -> reqwest::Result<reqwest::Client> {
    let policy = redirect::Policy::custom(|attempt| {
        if attempt.previous().len() > REDIRECTS_MAX {
            return attempt.error("it sends elsewhere again and again");
        }
        let stays = attempt.previous().last().is_some_and(|before| before.scheme() == "http");
        match address::judge(attempt.url(), Whose::Source) {
            Err(problem) => attempt.error(problem),
            Ok(()) if attempt.url().scheme() == "http" && !stays => attempt.error("https leads to http"),
            Ok(()) => attempt.follow(),
        }
    });
    crate::tls::client().connect_timeout(CONNECT_TIMEOUT).redirect(policy).referer(false).build()
}

/// The file at `path` below a source. Blocks where the source is a folder.
pub(super) fn find(source: &str, path: &str, folders: &[PathBuf]) -> Result<Place, Problem> {
    let mut url = Url::parse(source).map_err(|_| Problem::Address("it is no URL"))?;
    if url.scheme() == "file" {
        let folder = url.to_file_path().map_err(|()| Problem::Address("it names another machine's file"))?;
        return open(&folder.join(path), folders).map(Place::File);
    }
    address::judge(&url, Whose::Source).map_err(Problem::Address)?;
    url.path_segments_mut()
        .map_err(|()| Problem::Address("it has no path"))?
        .pop_if_empty()
        .extend(path.split('/'));
    Ok(Place::Http(url))
}

/// Opens a regular file inside one of the folders, whatever links lead to it.
///
/// Its real path is found first and then opened from the folder without following any link, so that nothing that is
/// exchanged meanwhile leads out of it.
pub(super) fn open(path: &Path, folders: &[PathBuf]) -> Result<Arc<File>, Problem> {
    let real = fs::canonicalize(path).map_err(Problem::Io)?;
    let inside = folders.iter().filter_map(|folder| {
        let folder = fs::canonicalize(folder).ok()?;
        let rest = real.strip_prefix(&folder).ok()?.to_owned();
        Some((folder, rest))
    });
    let Some((folder, rest)) = inside.into_iter().next() else { return Err(Problem::Folder(real)) };
    let failed = |error: rustix::io::Errno| Problem::Io(error.into());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(folder, flags, Mode::empty()).map_err(failed)?;
    // A pipe would else wait for a writer.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let file = File::from(rustix::fs::openat2(folder, rest, flags, Mode::empty(), within).map_err(failed)?);
    if file.metadata().map_err(Problem::Io)?.is_file() {
        Ok(Arc::new(file))
    } else {
        Err(Problem::NotRegular)
    }
}

/// What a source sends.
pub(super) struct Stream {
    body: Body,
    /// What was received and not yet taken.
    rest: Bytes,
    stall: Stall,
    /// When the present look at the rate ends, and what has come in it.
    until: Instant,
    came: u64,
}

enum Body {
    Http(Response),
    File { file: Arc<File>, at: u64 },
}

/// The least that must come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stall {
    pub(super) window: Duration,
    pub(super) bytes_min: u64,
}

/// From where a stream begins.
pub(super) enum Opened {
    /// From where it was asked for.
    Part(Stream),
    /// From the file's beginning: the source knows no parts.
    Whole(Stream),
}

/// Why a stream gave nothing more.
pub(super) enum Ended {
    /// Nothing more comes.
    Cut(String),
    /// Too little came.
    Stalled { received: u64, ms: u64 },
}

impl Place {
    /// Asks for a part of a file of `bytes` bytes.
    pub(super) async fn ask(
        &self,
        client: &reqwest::Client,
        part: Range<u64>,
        bytes: u64,
        stall: Stall,
    ) -> Result<Opened, Problem> {
        let url = match self {
            Self::File(file) => {
                let said = file.metadata().map_err(Problem::Io)?.len();
                sized(said, bytes)?;
                let body = Body::File { file: Arc::clone(file), at: part.start };
                return Ok(Opened::Part(Stream::new(body, stall)));
            }
            Self::Http(url) => url.clone(),
        };
        let request = client
            .get(url)
            .header(header::RANGE, format!("bytes={}-{}", part.start, part.end.saturating_sub(1)))
            .header(header::ACCEPT_ENCODING, "identity");
        let response = match timeout(stall.window.max(CONNECT_TIMEOUT), request.send()).await {
            Ok(answered) => answered.map_err(|error| Problem::of(&error))?,
            Err(_) => return Err(Problem::Unreachable("it does not answer".to_owned())),
        };
        let text = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        if let Some(encoding) =
            text(header::CONTENT_ENCODING).filter(|it| !it.eq_ignore_ascii_case("identity"))
        {
            return Err(Problem::Encoded(encoding.to_owned()));
        }
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let range = text(header::CONTENT_RANGE).and_then(range).ok_or(Problem::OtherPart)?;
                if let Some(said) = range.of {
                    sized(said, bytes)?;
                }
                if range.first != part.start {
                    return Err(Problem::OtherPart);
                }
                Ok(Opened::Part(Stream::new(Body::Http(response), stall)))
            }
            StatusCode::OK => {
                if let Some(said) = response.content_length() {
                    sized(said, bytes)?;
                }
                Ok(Opened::Whole(Stream::new(Body::Http(response), stall)))
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                let said =
                    text(header::CONTENT_RANGE).and_then(|text| text.strip_prefix("bytes */")?.parse().ok());
                said.map_or(Ok(()), |said| sized(said, bytes))?;
                Err(Problem::Status(StatusCode::RANGE_NOT_SATISFIABLE))
            }
            // One that can be followed was.
            status if status.is_redirection() => Err(Problem::Redirect(format!("it answers {status}"))),
            status => Err(Problem::Status(status)),
        }
    }
}

fn sized(said: u64, listed: u64) -> Result<(), Problem> {
    if said == listed { Ok(()) } else { Err(Problem::Size { said, listed }) }
}

/// What `bytes first-last/of` says; where it ends shows by itself.
struct ContentRange {
    first: u64,
    of: Option<u64>,
}

fn range(text: &str) -> Option<ContentRange> {
    let (range, of) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, _) = range.split_once('-')?;
    let of = if of == "*" { None } else { Some(of.parse().ok()?) };
    Some(ContentRange { first: first.parse().ok()?, of })
}

impl Stream {
    fn new(body: Body, stall: Stall) -> Self {
        Self { body, rest: Bytes::new(), stall, until: Instant::now() + stall.window, came: 0 }
    }

    /// The next bytes, `most` of them at the most; `None` where none came `until` then. What comes beyond `most` stays
    /// for the next call.
    pub(super) async fn next(&mut self, most: u64, until: Instant) -> Result<Option<Bytes>, Ended> {
        while self.rest.is_empty() {
            self.rest = match timeout_at(until.min(self.until), self.body.more(most)).await {
                Ok(Ok(Some(more))) => more,
                Ok(Ok(None)) => return Err(Ended::Cut("the answer ended".to_owned())),
                Ok(Err(cause)) => return Err(Ended::Cut(cause)),
                Err(_) if Instant::now() < self.until => return Ok(None),
                Err(_) if self.came < self.stall.bytes_min => {
                    let ms = u64::try_from(self.stall.window.as_millis()).unwrap_or(u64::MAX);
                    return Err(Ended::Stalled { received: self.came, ms });
                }
                Err(_) => {
                    self.look_anew();
                    continue;
                }
            };
            self.came += self.rest.len() as u64;
        }
        let taken = self.rest.len().min(usize::try_from(most).unwrap_or(usize::MAX));
        Ok(Some(self.rest.split_to(taken)))
    }

    /// Passes over so many bytes.
    pub(super) async fn skip(&mut self, bytes: u64) -> Result<(), Ended> {
        let mut left = bytes;
        while left > 0 {
            let passed = self.next(left, Instant::now() + self.stall.window).await?;
            left -= passed.map_or(0, |passed| passed.len() as u64);
        }
        Ok(())
    }

    /// Looks at the rate from now on: what was done meanwhile is no fault of the source.
    pub(super) fn look_anew(&mut self) {
        (self.until, self.came) = (Instant::now() + self.stall.window, 0);
    }
}

impl Body {
    async fn more(&mut self, most: u64) -> Result<Option<Bytes>, String> {
        match self {
            Self::Http(response) => response.chunk().await.map_err(|error| chain(&error)),
            Self::File { file, at } => {
                let (reading, from) = (Arc::clone(file), *at);
                let read = blocking(move || read_at(&reading, from, most.min(READ_BYTES))).await;
                let read = read.map_err(|error| error.to_string())?;
                *at += read.len() as u64;
                Ok(Some(read).filter(|read| !read.is_empty()))
            }
        }
    }
}

fn read_at(file: &File, at: u64, most: u64) -> io::Result<Bytes> {
    let mut read = vec![0; usize::try_from(most).unwrap_or_default()];
    let length = file.read_at(&mut read, at)?;
    read.truncate(length);
    Ok(read.into())
}
