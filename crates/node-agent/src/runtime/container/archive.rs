//! An image in a file: an OCI image layout as a tar archive, as `skopeo copy ... oci-archive:` and `docker save` (25 and
//! later) write it.
//!
//! Of what the archive holds, only the blobs that the approved manifest names are used, each by its SHA-256. What is handed
//! to the engine is an archive of our own with these blobs and nothing else: the engine cannot be made to load a tag or a
//! second image. It can be read as an OCI layout and, for engines before Docker 25, by docker's own `manifest.json`; both
//! stand at its end, so nothing is loaded before every blob was found to be the right one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use node_types::Digest;
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::error::ContainerError;

/// The longest manifest or configuration: 4 MiB, as registries have it.
const DOCUMENT_BYTES_MAX: u64 = 4 << 20;
/// The most entries that are looked at: no image has more than a few hundred.
const ENTRIES_MAX: usize = 16_384;
/// The type of a manifest that does not name its own.
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// An archive whose manifest is the approved one.
#[derive(Debug)]
pub(super) struct Archive {
    path: PathBuf,
    file: File,
    digest: Digest,
    manifest: Manifest,
    manifest_text: Vec<u8>,
    blobs: Blobs,
}

/// Where each blob stands: offset and length.
type Blobs = BTreeMap<Digest, (u64, u64)>;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    media_type: Option<String>,
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
struct Descriptor {
    digest: Digest,
}

/// Why an archive was not written to its end.
#[derive(Debug)]
pub(super) enum Broken {
    /// It is not what it should be.
    Archive(ContainerError),
    /// Whoever read it stopped.
    Reader,
}

impl Archive {
    /// Reads the manifest `digest` of the archive; none where there is no such file. Blocks.
    ///
    /// # Errors
    /// [`ContainerError::Read`], [`ContainerError::Archive`].
    #[expect(clippy::disallowed_methods, reason = "a file of the operator's, not of the volume's")]
    pub(super) fn open(path: &Path, digest: Digest) -> Result<Option<Self>, ContainerError> {
        let unread = |source| ContainerError::Read { path: path.to_owned(), source };
        let bad = |problem: String| ContainerError::Archive { path: path.to_owned(), digest, problem };
        let mut file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(unread)?,
        };
        let blobs = find(&file).map_err(|error| bad(format!("it is no tar archive: {error}")))?;
        let &(offset, bytes) =
            blobs.get(&digest).ok_or_else(|| bad("it does not hold this manifest".to_owned()))?;
        if bytes > DOCUMENT_BYTES_MAX {
            return Err(bad(format!("its manifest has {bytes} bytes, the most is {DOCUMENT_BYTES_MAX}")));
        }
        let mut manifest_text = Vec::new();
        file.seek(SeekFrom::Start(offset)).map_err(unread)?;
        (&file).take(bytes).read_to_end(&mut manifest_text).map_err(unread)?;
        let found = Digest::of(&manifest_text);
        if found != digest {
            return Err(bad(format!("its manifest is {found}")));
        }
        let manifest: Manifest = serde_json::from_slice(&manifest_text)
            .map_err(|error| bad(format!("its manifest is none: {error}")))?;
        Ok(Some(Self { path: path.to_owned(), file, digest, manifest, manifest_text, blobs }))
    }

    /// The digest of the image's configuration, by the manifest.
    ///
    /// # Errors
    /// [`ContainerError::Archive`] for an index of several images.
    pub(super) fn config(&self) -> Result<Digest, ContainerError> {
        self.manifest.config.as_ref().map(|config| config.digest).ok_or_else(|| {
            self.bad(
                "the digest names no single image (an index of several?): name the manifest of one platform"
                    .to_owned(),
            )
        })
    }

    fn bad(&self, problem: String) -> ContainerError {
        ContainerError::Archive { path: self.path.clone(), digest: self.digest, problem }
    }

    /// Writes the archive for the engine, and looks meanwhile whether every blob is the right one. Blocks.
    ///
    /// # Errors
    /// [`Broken`]; then what was written cannot be loaded.
    pub(super) fn write(&self, out: impl Write) -> Result<(), Broken> {
        let config = self.config().map_err(Broken::Archive)?;
        let mut out = tar::Builder::new(out);
        let layers = self.manifest.layers.iter().map(|layer| layer.digest);
        let blobs: BTreeSet<Digest> = layers.chain([self.digest, config]).collect();
        for blob in blobs {
            self.write_blob(&mut out, blob)?;
        }
        let media_type = self.manifest.media_type.as_deref().unwrap_or(MANIFEST);
        let index = json!({ "schemaVersion": 2, "manifests": [
            { "mediaType": media_type, "digest": self.digest, "size": self.manifest_text.len() },
        ] });
        let layers = self.manifest.layers.iter().map(|layer| name(layer.digest));
        let load =
            json!([{ "Config": name(config), "RepoTags": null, "Layers": layers.collect::<Vec<_>>() }]);
        let documents = [
            ("oci-layout", json!({ "imageLayoutVersion": "1.0.0" })),
            ("index.json", index),
            ("manifest.json", load),
        ];
        for (path, document) in documents {
            let text = document.to_string();
            append(&mut out, path, text.len() as u64, text.as_bytes()).map_err(|_| Broken::Reader)?;
        }
        out.into_inner().and_then(|mut out| out.flush()).map_err(|_| Broken::Reader)
    }

    fn write_blob(&self, out: &mut tar::Builder<impl Write>, digest: Digest) -> Result<(), Broken> {
        let bad = |problem: String| Broken::Archive(self.bad(problem));
        let unread = |source| Broken::Archive(ContainerError::Read { path: self.path.clone(), source });
        let &(offset, bytes) =
            self.blobs.get(&digest).ok_or_else(|| bad(format!("its blob {digest} is missing")))?;
        let mut file = &self.file;
        file.seek(SeekFrom::Start(offset)).map_err(unread)?;
        let mut blob = Hashed { blob: file.take(bytes), hasher: Sha256::new(), failed: None };
        let written = append(out, &name(digest), bytes, &mut blob);
        if let Some(error) = blob.failed {
            return Err(unread(error));
        }
        written.map_err(|_| Broken::Reader)?;
        let found = Digest::from_bytes(blob.hasher.finalize().into());
        if found == digest { Ok(()) } else { Err(bad(format!("its blob {digest} is {found}"))) }
    }
}

/// The blobs of an archive.
fn find(mut file: &File) -> io::Result<Blobs> {
    let mut blobs = Blobs::new();
    let mut archive = tar::Archive::new(&mut file);
    for entry in archive.entries_with_seek()?.take(ENTRIES_MAX) {
        let entry = entry?;
        let path = entry.path_bytes();
        let path = path.strip_prefix(b"./").unwrap_or(&path);
        let hex = path.strip_prefix(b"blobs/sha256/").and_then(|hex| std::str::from_utf8(hex).ok());
        let digest = hex.and_then(|hex| format!("sha256:{hex}").parse().ok());
        if let (Some(digest), true) = (digest, entry.header().entry_type().is_file()) {
            blobs.insert(digest, (entry.raw_file_position(), entry.size()));
        }
    }
    Ok(blobs)
}

fn name(blob: Digest) -> String {
    format!("blobs/sha256/{}", blob.hex())
}

fn append(out: &mut tar::Builder<impl Write>, path: &str, bytes: u64, content: impl Read) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_path(path)?;
    header.set_size(bytes);
    header.set_mode(0o444);
    header.set_cksum();
    out.append(&header, content)
}

/// Hashes what is read, and keeps an error of the reading apart from one of the writing.
struct Hashed<R> {
    blob: R,
    hasher: Sha256,
    failed: Option<io::Error>,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.blob.read(buffer) {
            Ok(count) => {
                self.hasher.update(&buffer[..count]);
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let kind = error.kind();
                self.failed = Some(error);
                Err(kind.into())
            }
        }
    }
}
