//! Model files over HTTP: `GET /models/<name>@<version>/<path>`, as the snapshot lists them.
//!
//! `HEAD`, one range (RFC 9110, 14), `If-Range`, a strong entity tag that is the file's SHA-256. Several ranges at once
//! and ranges that are none are answered with everything, as the RFC allows. [`Mischief`] is what goes wrong on command.

use std::{
    error::Error as _,
    io::{self, SeekFrom},
    ops::Range,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, Response, StatusCode, header},
    response::IntoResponse as _,
    routing::get,
};
use futures_util::stream;
use node_types::Digest;
use tokio::{
    fs::File,
    io::{AsyncReadExt as _, AsyncSeekExt as _},
    time::sleep,
};

use crate::{
    core::{Shared, Trouble},
    files,
    openai::ApiError,
    settings::ConfigTemplate,
    shelf::Served,
};

/// How much is read and handed on at once: 256 KiB.
const CHUNK_BYTES: u64 = 256 << 10;
/// A slow answer has so many bytes
const DRIP_BYTES: u64 = 2;
/// every 250 milliseconds.
const DRIP_EVERY: Duration = Duration::from_millis(250);
/// Before a connection dies, so that what was sent before has left: 50 milliseconds.
const LAST_WORDS: Duration = Duration::from_millis(50);

/// The routes.
pub(crate) fn routes() -> Router<Arc<Shared>> {
    Router::new().route("/models/{model}/{*path}", get(model_file))
}

/// What goes wrong on command with one answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mischief {
    /// Everything, whatever was asked for.
    pub(crate) no_ranges: bool,
    /// One byte too many.
    pub(crate) wrong_size: bool,
    /// No end.
    pub(crate) endless: bool,
    /// A few bytes a second.
    pub(crate) slow_drip: bool,
    /// The byte at this place of the file is wrong.
    pub(crate) corrupt: Option<u64>,
    /// The connection dies after so many bytes.
    pub(crate) cut: Option<u64>,
}

impl Shared {
    /// Reads those files of a template that stand in the folder of models, before a snapshot is made of it.
    pub(crate) async fn learn(&self, template: ConfigTemplate) -> Result<(), Trouble> {
        let shelf = Arc::clone(&self.shelf);
        let learnt = tokio::task::spawn_blocking(move || shelf.learn(&template)).await;
        let learnt = learnt.map_err(|error| Trouble::Impossible(error.to_string()))?;
        learnt.map_err(|error| {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            Trouble::Impossible(format!("{error}{cause}"))
        })
    }
}

async fn model_file(
    State(shared): State<Arc<Shared>>,
    Path((model, path)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response<Body> {
    let sha256 = match shared.look(|core| core.model_file(&model, &path)) {
        Ok(Some(sha256)) => sha256,
        Ok(None) => return absent(&format!("the snapshot lists no {path} of {model}")),
        Err(trouble) => return unavailable(trouble.to_string()),
    };
    let Some(place) = shared.shelf.path(sha256) else {
        return absent("the devnet has no folder of models: start it with --models");
    };
    let found =
        files::length(&place).and_then(|bytes| bytes.map(|it| Ok((it, files::open(&place)?))).transpose());
    let (bytes, file) = match found {
        Ok(Some((bytes, file))) => (bytes, File::from_std(file)),
        Ok(None) => return absent(&format!("{} is missing in the devnet's folder of models", sha256.hex())),
        Err(error) => return unavailable(format!("{}: {error}", place.display())),
    };
    let served = shared.shelf.served(sha256);
    served.requests.fetch_add(1, Ordering::Relaxed);
    answer(shared, file, bytes, sha256, served, &headers)
}

fn absent(why: &str) -> Response<Body> {
    ApiError::not_found(why).into_response()
}

fn unavailable(why: String) -> Response<Body> {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", None, why).into_response()
}

fn answer(
    shared: Arc<Shared>,
    file: File,
    bytes: u64,
    sha256: Digest,
    served: Arc<Served>,
    headers: &HeaderMap,
) -> Response<Body> {
    let tag = format!("\"{}\"", sha256.hex());
    let asked = asked(headers, &tag, bytes);
    let wanted = match &asked {
        Asked::Everything => 0..bytes,
        Asked::Part(range) => range.clone(),
        Asked::Beyond => bytes..bytes,
    };
    let Some(mischief) = shared.mischief(&wanted, bytes) else {
        return unavailable("the network is closed".to_owned());
    };
    let said = bytes + u64::from(mischief.wrong_size);
    let (status, range) = match asked {
        Asked::Beyond if !mischief.no_ranges => {
            let said = [(header::CONTENT_RANGE, format!("bytes */{said}"))];
            return (StatusCode::RANGE_NOT_SATISFIABLE, said).into_response();
        }
        Asked::Part(range) if !mischief.no_ranges => (StatusCode::PARTIAL_CONTENT, range),
        Asked::Everything | Asked::Part(_) | Asked::Beyond => (StatusCode::OK, 0..said),
    };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    let head = response.headers_mut();
    let mut say = |name, text: String| {
        // Numbers and hex digits always are a header's value.
        if let Ok(value) = text.parse() {
            head.insert(name, value);
        }
    };
    say(header::ETAG, tag);
    say(header::CONTENT_TYPE, "application/octet-stream".to_owned());
    if !mischief.no_ranges {
        say(header::ACCEPT_RANGES, "bytes".to_owned());
    }
    if status == StatusCode::PARTIAL_CONTENT {
        say(header::CONTENT_RANGE, format!("bytes {}-{}/{said}", range.start, range.end.saturating_sub(1)));
    }
    if !mischief.endless {
        say(header::CONTENT_LENGTH, (range.end - range.start).to_string());
    }
    let end = if mischief.endless { u64::MAX } else { range.end };
    let sending = Sending { shared, file, bytes, at: range.start, end, is_there: false, served, mischief };
    *response.body_mut() = Body::from_stream(stream::unfold(Some(sending), Sending::step));
    response
}

/// What of a file is asked for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Everything,
    Part(Range<u64>),
    /// A part that is not there.
    Beyond,
}

/// A part is asked for with `bytes=first-last`, `bytes=first-` or `bytes=-length`, and only while the file is the one
/// that `If-Range` names.
fn asked(headers: &HeaderMap, tag: &str, bytes: u64) -> Asked {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if text(header::IF_RANGE).is_some_and(|held| held.trim() != tag) {
        return Asked::Everything;
    }
    match text(header::RANGE).and_then(|range| range_of(range, bytes)) {
        None => Asked::Everything,
        Some(range) if range.is_empty() => Asked::Beyond,
        Some(range) => Asked::Part(range),
    }
}

fn range_of(text: &str, bytes: u64) -> Option<Range<u64>> {
    let number = |text: &str| text.parse::<u64>().ok();
    match text.strip_prefix("bytes=")?.trim().split_once('-')? {
        ("", length) => Some(bytes.saturating_sub(number(length)?)..bytes),
        (first, "") => Some(number(first)?..bytes),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then(|| first..last.saturating_add(1).min(bytes))
        }
    }
}

/// A file on its way to who asked for it.
struct Sending {
    shared: Arc<Shared>,
    file: File,
    /// How long the file is.
    bytes: u64,
    /// What is sent next.
    at: u64,
    /// Where the answer ends, which may be beyond the file: zeros follow it.
    end: u64,
    /// Whether the file is read from `at` on.
    is_there: bool,
    served: Arc<Served>,
    mischief: Mischief,
}

impl Sending {
    async fn step(held: Option<Self>) -> Option<(io::Result<Vec<u8>>, Option<Self>)> {
        let mut sending = held?;
        match sending.next().await {
            Ok(chunk) if chunk.is_empty() => None,
            Ok(chunk) => Some((Ok(chunk), Some(sending))),
            Err(error) => Some((Err(error), None)),
        }
    }

    async fn next(&mut self) -> io::Result<Vec<u8>> {
        let mut room = CHUNK_BYTES.min(self.end - self.at);
        if self.mischief.slow_drip {
            sleep(DRIP_EVERY).await;
            room = room.min(DRIP_BYTES);
        }
        if let Some(left) = &mut self.mischief.cut {
            room = room.min(*left);
            *left -= room;
            if room == 0 {
                sleep(LAST_WORDS).await;
                return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "cut on command"));
            }
        }
        if self.shared.look(|_| Ok(())).is_err() {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the network is closed"));
        }
        let mut chunk = vec![0; usize::try_from(room).unwrap_or_default()];
        let in_file = usize::try_from(room.min(self.bytes.saturating_sub(self.at))).unwrap_or_default();
        if !self.is_there {
            self.file.seek(SeekFrom::Start(self.at)).await?;
            self.is_there = true;
        }
        self.file.read_exact(chunk.get_mut(..in_file).unwrap_or_default()).await?;
        let wrong = self.mischief.corrupt.and_then(|at| usize::try_from(at.checked_sub(self.at)?).ok());
        if let Some(byte) = wrong.and_then(|at| chunk.get_mut(at)) {
            *byte ^= 1;
        }
        self.at += room;
        self.served.bytes.fetch_add(room, Ordering::Relaxed);
        Ok(chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_rfc_9110_has_them() {
        let wanted_by = |range: &str, held: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RANGE, range.parse().unwrap());
            if let Some(held) = held {
                headers.insert(header::IF_RANGE, held.parse().unwrap());
            }
            asked(&headers, "\"t\"", 100)
        };
        assert_eq!(asked(&HeaderMap::new(), "\"t\"", 100), Asked::Everything);
        for (range, wanted) in [
            ("bytes=0-0", Asked::Part(0..1)),
            ("bytes=10-19", Asked::Part(10..20)),
            ("bytes=90-", Asked::Part(90..100)),
            ("bytes=90-500", Asked::Part(90..100)),
            ("bytes=-10", Asked::Part(90..100)),
            ("bytes=-500", Asked::Part(0..100)),
            ("bytes=100-", Asked::Beyond),
            ("bytes=100-200", Asked::Beyond),
            ("bytes=-0", Asked::Beyond),
            ("bytes=5-4", Asked::Everything),
            ("bytes=0-1,3-4", Asked::Everything),
            ("bytes=a-b", Asked::Everything),
            ("bytes", Asked::Everything),
            ("lines=0-1", Asked::Everything),
        ] {
            assert_eq!(wanted_by(range, None), wanted, "{range}");
        }
        assert_eq!(wanted_by("bytes=0-0", Some("\"t\"")), Asked::Part(0..1));
        assert_eq!(wanted_by("bytes=0-0", Some("\"u\"")), Asked::Everything);
        assert_eq!(wanted_by("bytes=0-0", Some("W/\"t\"")), Asked::Everything);
    }
}
