//! OTLP over HTTP, in protobuf (opentelemetry.io/docs/specs/otlp, "OTLP/HTTP"): what is sent and what an answer means.
//!
//! Retries are the caller's, and only for [`Sent::Later`]: no connection, 429, 502, 503 and 504, as the protocol says.
//! Everything else that is no success is never sent again, nor is what a collector took in part.
//!
//! Limits: [`TIMEOUT`] for a request, [`ANSWER_BYTES_MAX`] of an answer. Left out: compression (a collector stands near), OTLP over
//! gRPC, and times of day in `Retry-After`.

mod encode;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

pub use encode::{Begins, Source, logs, metrics};
use node_store::{
    disk::{Disk, RealDisk},
    private::{NotPrivate, Private, check_private},
};
use opentelemetry_proto::tonic::collector::{
    logs::v1::ExportLogsServiceResponse, metrics::v1::ExportMetricsServiceResponse,
};
use prost::Message;
use reqwest::{
    StatusCode, Url,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
};

use crate::{
    address::{self, Whose},
    journal::causes,
    settings::OtlpSettings,
    tls,
};

/// How long a collector may take: 10 seconds, as OpenTelemetry's own exporters wait.
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of an answer that are read.
pub const ANSWER_BYTES_MAX: usize = 64 << 10;
/// The longest wait that a collector can ask for: an hour.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);
/// The longest file of headers in bytes.
const HEADERS_BYTES_MAX: u64 = 64 << 10;

/// Why nothing can be sent to a collector.
#[derive(Debug, thiserror::Error)]
pub enum OtlpError {
    /// The address.
    #[error("otlp.endpoint is {url:?}: {problem}")]
    Url {
        /// The address.
        url: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The file of headers can be read by others, or is none.
    #[error("the headers for the collector are not used")]
    NotPrivate(#[from] NotPrivate),
    /// The file of headers cannot be read.
    #[error("cannot read the headers for the collector in {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A line of it is no header. What stands there is a secret, and not said.
    #[error(
        "line {line} of {path} is no header: write `Name: value`, for example `Authorization: Bearer ...`"
    )]
    Header {
        /// The file.
        path: PathBuf,
        /// Which line, counted from 1.
        line: usize,
    },
    /// No client can be made.
    #[error("cannot set up TLS for the collector")]
    Client(#[from] reqwest::Error),
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The collector has it, but for so many records or points; and what it said to that.
    Taken {
        /// Records or points that it took not.
        rejected: u64,
        /// Why, in its words, or a warning.
        why: String,
    },
    /// It will never take it.
    Refused {
        /// Why.
        why: String,
    },
    /// It may take it later.
    Later {
        /// Why not now.
        why: String,
        /// How long it wants to be left alone.
        after: Option<Duration>,
    },
}

/// A collector.
#[derive(Debug)]
pub struct Collector {
    client: reqwest::Client,
    logs: Url,
    metrics: Url,
    headers: HeaderMap,
}

impl Collector {
    /// The collector of these settings. Reads the file of headers.
    ///
    /// # Errors
    /// [`OtlpError`].
    pub fn new(settings: &OtlpSettings) -> Result<Self, OtlpError> {
        let wrong = |problem| OtlpError::Url { url: address::shown(&settings.endpoint), problem };
        let base = address::parse(&settings.endpoint, Whose::Collector).map_err(wrong)?;
        let base = base.as_str().trim_end_matches('/');
        let at = |path| Url::parse(&format!("{base}{path}")).map_err(|_| wrong("it is no URL"));
        let headers = settings.headers_file.as_deref().map(read_headers).transpose()?.unwrap_or_default();
        let client = tls::client()
            .timeout(TIMEOUT)
            .connect_timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        Ok(Self { client, logs: at("/v1/logs")?, metrics: at("/v1/metrics")?, headers })
    }

    /// Sends log records.
    pub async fn send_logs(&self, request: &impl Message) -> Sent {
        let partly = |body: &[u8]| {
            let answer = ExportLogsServiceResponse::decode(body).ok()?.partial_success?;
            Some((answer.rejected_log_records, answer.error_message))
        };
        self.send(&self.logs, request.encode_to_vec(), partly).await
    }

    /// Sends metrics.
    pub async fn send_metrics(&self, request: &impl Message) -> Sent {
        let partly = |body: &[u8]| {
            let answer = ExportMetricsServiceResponse::decode(body).ok()?.partial_success?;
            Some((answer.rejected_data_points, answer.error_message))
        };
        self.send(&self.metrics, request.encode_to_vec(), partly).await
    }

    async fn send(&self, url: &Url, body: Vec<u8>, partly: impl Fn(&[u8]) -> Option<(i64, String)>) -> Sent {
        let request = self
            .client
            .post(url.clone())
            .headers(self.headers.clone())
            .header(CONTENT_TYPE, "application/x-protobuf")
            .body(body);
        let response = match request.send().await {
            Ok(response) => response,
            // Its words name the address, never a header.
            Err(error) => return Sent::Later { why: causes(&error), after: None },
        };
        let (status, after) = (response.status(), retry_after(response.headers()));
        if status.is_success() {
            // It has it; what it says to that is worth no second sending.
            let body = read(response).await;
            let (rejected, why) = body.as_deref().and_then(partly).unwrap_or_default();
            return Sent::Taken { rejected: u64::try_from(rejected).unwrap_or(0), why };
        }
        let why = format!("{url} answered {status}");
        if may_retry(status) { Sent::Later { why, after } } else { Sent::Refused { why } }
    }
}

/// Whether the protocol lets it be sent again ("Retryable Response Codes").
const fn may_retry(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 502 | 503 | 504)
}

/// `Retry-After` in seconds (RFC 9110, 10.2.3).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

async fn read(mut response: reqwest::Response) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(part) = response.chunk().await.ok()? {
        body.extend_from_slice(&part);
        if body.len() > ANSWER_BYTES_MAX {
            return None;
        }
    }
    Some(body)
}

/// Reads `Name: value` lines out of a file that is nobody else's; empty lines and those that begin with `#` are left out.
fn read_headers(path: &Path) -> Result<HeaderMap, OtlpError> {
    check_private(&RealDisk, path, Private::File)?;
    let unreadable = |source| OtlpError::Read { path: path.to_owned(), source };
    let bytes = zeroize::Zeroizing::new(
        RealDisk.read(path, HEADERS_BYTES_MAX).map_err(unreadable)?.unwrap_or_default(),
    );
    let text = std::str::from_utf8(&bytes)
        .map_err(|error| unreadable(std::io::Error::new(std::io::ErrorKind::InvalidData, error)))?;
    let mut headers = HeaderMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let header = line.split_once(':').and_then(|(name, value)| {
            let mut value = HeaderValue::from_str(value.trim()).ok()?;
            value.set_sensitive(true);
            Some((HeaderName::from_bytes(name.trim().as_bytes()).ok()?, value))
        });
        let (name, value) =
            header.ok_or_else(|| OtlpError::Header { path: path.to_owned(), line: number + 1 })?;
        headers.append(name, value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_leads_nowhere_but_to_this_machine_and_no_secret_stands_in_an_address() {
        for good in
            ["http://127.0.0.1:4318", "http://[::1]:4318/", "http://localhost", "https://otel.example.org/x"]
        {
            assert!(address::parse(good, Whose::Collector).is_ok(), "{good}");
        }
        for wrong in [
            "127.0.0.1:4318",
            "http://10.0.0.1",
            "https://u:p@example.org",
            "ftp://localhost",
            "https://e.org?k=1",
        ] {
            assert!(address::parse(wrong, Whose::Collector).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_what_the_protocol_names_is_sent_again() {
        let again: Vec<u16> =
            (100..600).filter(|code| may_retry(StatusCode::from_u16(*code).unwrap())).collect();
        assert_eq!(again, [429, 502, 503, 504]);
    }

    #[test]
    fn headers_come_from_a_private_file_and_a_wrong_line_is_named_without_what_it_says() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("headers");
        let put = |text: &str, mode: u32| {
            #[expect(clippy::disallowed_methods, reason = "a file of the operator's")]
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        put("# the team's\n\nAuthorization: Bearer CANARY\nx-scope: a:b\n", 0o600);
        let headers = read_headers(&path).unwrap();
        assert_eq!(headers["authorization"], "Bearer CANARY");
        assert_eq!(headers["x-scope"], "a:b");
        assert!(!format!("{headers:?}").contains("CANARY"), "{headers:?}");
        put("Authorization: Bearer CANARY", 0o644);
        let error = causes(&read_headers(&path).unwrap_err());
        assert!(error.contains("chmod 600"), "{error}");
        put("a: b\nCANARY", 0o600);
        let error = causes(&read_headers(&path).unwrap_err());
        assert!(error.contains("line 2") && !error.contains("CANARY"), "{error}");
    }
}
