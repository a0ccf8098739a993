//! A registry of container images: what an engine needs to pull by digest, and nothing else (OCI Distribution
//! Specification 1.1, the category "pull").
//!
//! It serves the blobs of one OCI image layout, `<images>/blobs/sha256/<hex>`, under any repository's name. There are no
//! tags and no uploads. Engines speak to a registry on loopback without TLS.

use std::{path::Path, sync::Arc};

use axum::{
    Json, Router,
    body::Body,
    extract::{self, State},
    http::{Method, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use futures_util::stream;
use node_types::Digest;
use serde::Deserialize;
use serde_json::json;
use tokio::{fs::File, io::AsyncReadExt as _};

use crate::core::Shared;

/// What is read of a blob at once: 64 KiB.
const CHUNK_BYTES: usize = 64 << 10;
/// The longest manifest: 4 MiB, as registries have it.
const MANIFEST_BYTES_MAX: u64 = 4 << 20;
/// The type of a manifest that does not name its own.
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// The routes.
pub(crate) fn routes() -> Router<Arc<Shared>> {
    Router::new().route("/v2/", get(async || Json(json!({})))).route("/v2/{*path}", get(content))
}

/// What a path names.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    Manifest(Digest),
    Blob(Digest),
}

/// Reads `<repository>/manifests/<digest>` or `<repository>/blobs/<digest>`.
fn wanted(path: &str) -> Option<Wanted> {
    let (rest, digest) = path.rsplit_once('/')?;
    let (repository, kind) = rest.rsplit_once('/')?;
    let digest = digest.parse().ok().filter(|_| !repository.is_empty())?;
    match kind {
        "manifests" => Some(Wanted::Manifest(digest)),
        "blobs" => Some(Wanted::Blob(digest)),
        _ => None,
    }
}

async fn content(
    State(shared): State<Arc<Shared>>,
    method: Method,
    extract::Path(path): extract::Path<String>,
) -> Response {
    let (Some(images), Some(wanted)) = (&shared.settings.images, wanted(&path)) else {
        return unknown("nothing is served here: ask for a manifest or a blob by its sha256 digest");
    };
    match &wanted {
        Wanted::Manifest(digest) => blob(images, *digest, true, &method).await,
        Wanted::Blob(digest) => blob(images, *digest, false, &method).await,
    }
}

async fn blob(images: &Path, digest: Digest, manifest: bool, method: &Method) -> Response {
    let path = images.join("blobs/sha256").join(digest.hex());
    let Ok(mut file) = File::open(&path).await else { return unknown("there is no such blob") };
    let Ok(about) = file.metadata().await else { return unknown("there is no such blob") };
    let mut media_type = "application/octet-stream".to_owned();
    let body = if manifest {
        let mut text = Vec::new();
        let read = (&mut file).take(MANIFEST_BYTES_MAX).read_to_end(&mut text).await;
        if read.is_err() || about.len() > MANIFEST_BYTES_MAX {
            return unknown("it is no manifest");
        }
        media_type =
            serde_json::from_slice::<Typed>(&text).map_or_else(|_| MANIFEST.to_owned(), |it| it.media_type);
        Body::from(text)
    } else if method == Method::HEAD {
        Body::empty()
    } else {
        streamed(file)
    };
    let headers = [
        (header::CONTENT_TYPE, media_type),
        (header::CONTENT_LENGTH, about.len().to_string()),
        (header::HeaderName::from_static("docker-content-digest"), digest.to_string()),
    ];
    (headers, body).into_response()
}

/// What names its own type.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Typed {
    media_type: String,
}

fn streamed(file: File) -> Body {
    Body::from_stream(stream::try_unfold(file, async |mut file| {
        let mut chunk = vec![0; CHUNK_BYTES];
        let count = file.read(&mut chunk).await?;
        chunk.truncate(count);
        Ok::<_, std::io::Error>((count > 0).then_some((chunk, file)))
    }))
}

fn unknown(text: &str) -> Response {
    let body = json!({ "errors": [{ "code": "NAME_UNKNOWN", "message": text }] });
    (StatusCode::NOT_FOUND, Json(body)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_digests_name_anything() {
        let digest = Digest::of(b"x");
        assert_eq!(wanted(&format!("a/manifests/{digest}")), Some(Wanted::Manifest(digest)));
        assert_eq!(wanted(&format!("a/b/c/blobs/{digest}")), Some(Wanted::Blob(digest)));
        for path in ["a/manifests/latest", "a/blobs/../../x", "manifests/sha256:00", "", "a/tags/list"] {
            assert_eq!(wanted(path), None, "{path}");
        }
        assert_eq!(wanted(&format!("blobs/{digest}")), None);
    }
}
