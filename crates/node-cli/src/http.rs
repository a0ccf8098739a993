//! Plain HTTP to a devnet or an Agent's page on this machine: one request, one answer, one connection.
//!
//! HTTP/1.0, so that the answer ends with the connection and is never chunked. Only `http`; a devnet only on loopback.
//!
//! Limits: [`ANSWER_BYTES_MAX`] and [`TIMEOUT`]. Left out on purpose: TLS, redirects, everything that is not loopback.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream, ToSocketAddrs as _},
    time::Duration,
};

/// The longest answer in bytes: 32 MiB.
const ANSWER_BYTES_MAX: u64 = 32 << 20;
/// How long connecting, and each read and write, may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    /// Not a URL that is spoken to.
    #[error("{0:?} is no devnet's URL: write http://127.0.0.1:<port>; a devnet is on this machine")]
    Url(String),
    /// No connection.
    #[error(
        "no devnet answers at {url}: start one with `resultity-node devnet run --folder <FOLDER> --template <FILE>`, or give its --url"
    )]
    Connection {
        /// The URL.
        url: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// No HTTP came back.
    #[error("what {url} answered is no HTTP")]
    NotHttp {
        /// The URL.
        url: String,
    },
    /// It refused.
    #[error("{url} answered {status}: {body}")]
    Status {
        /// The URL with the path.
        url: String,
        /// The status.
        status: u16,
        /// The start of what it said.
        body: String,
    },
}

/// The loopback address and the host's name in a URL.
fn loopback(url: &str) -> Option<(SocketAddr, &str)> {
    let host = url.strip_prefix("http://")?.trim_end_matches('/');
    let mut addresses = host.to_socket_addrs().ok()?;
    let address = addresses.find(|address| address.ip().is_loopback())?;
    Some((address, host))
}

/// Sends a request and gives the answer's body.
///
/// # Errors
/// [`HttpError`]; [`HttpError::Status`] for anything but 2xx.
pub(crate) fn request(
    url: &str,
    method: &str,
    path: &str,
    body: Option<&[u8]>,
) -> Result<Vec<u8>, HttpError> {
    let (address, host) = loopback(url).ok_or_else(|| HttpError::Url(url.to_owned()))?;
    let mut head = format!("{method} {path} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n");
    if let Some(body) = body {
        head += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    }
    let answer = exchange(address, &head, body, TIMEOUT)
        .map_err(|source| HttpError::Connection { url: url.to_owned(), source })?;
    let (status, body) = parse(&answer).ok_or_else(|| HttpError::NotHttp { url: url.to_owned() })?;
    if (200..300).contains(&status) {
        return Ok(body.to_vec());
    }
    let body = String::from_utf8_lossy(body).chars().take(500).collect();
    Err(HttpError::Status { url: format!("{}{path}", url.trim_end_matches('/')), status, body })
}

/// Gets something of an Agent's page, whose URL stands in the lock file of its volume: the status and the body.
///
/// # Errors
/// The operating system's; `InvalidInput` for what is no such URL, `InvalidData` for what is no HTTP.
pub(crate) fn page(
    url: &str,
    path: &str,
    token: Option<&str>,
    timeout: Duration,
) -> io::Result<(u16, Vec<u8>)> {
    let host = url.strip_prefix("http://").unwrap_or_default();
    let address: SocketAddr = host.parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut head = format!("GET {path} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n");
    // One that could end the header is none that the page takes.
    if let Some(token) = token.filter(|token| token.bytes().all(|byte| byte.is_ascii_graphic())) {
        head += &format!("Authorization: Bearer {token}\r\n");
    }
    let answer = exchange(address, &head, None, timeout)?;
    let (status, body) = parse(&answer).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok((status, body.to_vec()))
}

fn exchange(address: SocketAddr, head: &str, body: Option<&[u8]>, timeout: Duration) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    stream.write_all(head.as_bytes())?;
    stream.write_all(b"\r\n")?;
    stream.write_all(body.unwrap_or_default())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    Ok(answer)
}

/// The status and the body of an answer.
fn parse(answer: &[u8]) -> Option<(u16, &[u8])> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    Some((status, &answer[end + 4..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_spoken_to() {
        assert!(loopback("http://127.0.0.1:80").is_some());
        assert!(loopback("http://[::1]:80/").is_some());
        for url in ["https://127.0.0.1:80", "http://192.0.2.1:80", "http://127.0.0.1", "127.0.0.1:80", ""] {
            assert!(matches!(request(url, "GET", "/", None), Err(HttpError::Url(_))), "{url}");
        }
    }

    #[test]
    fn an_answer_is_taken_apart() {
        let (status, body) = parse(b"HTTP/1.1 404 Not Found\r\nA: b\r\n\r\nno\r\n\r\nsuch").unwrap();
        assert_eq!((status, body), (404, b"no\r\n\r\nsuch".as_slice()));
        for wrong in [b"".as_slice(), b"HTTP/1.1 200 OK\r\n", b"SSH-2.0\r\n\r\n", b"HTTP/1.1 x\r\n\r\n"] {
            assert!(parse(wrong).is_none(), "{wrong:?}");
        }
    }
}
