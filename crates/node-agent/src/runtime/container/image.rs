//! Finds the approved image, or gets it.
//!
//! An image is the approved one where the engine pulled it by its digest, where the engine's own ID of it is the digest of
//! the manifest, or where that ID is the digest of the configuration that the manifest (read from an archive) or the snapshot
//! names. A configuration names every layer by its content, so each of these fixes the whole image. A tag never decides.

use std::{
    io::{self, BufWriter, Write},
    path::PathBuf,
    sync::Arc,
};

use bollard::{
    errors::Error as EngineError,
    models::ImageInspect,
    query_parameters::{CreateImageOptionsBuilder, ImportImageOptionsBuilder},
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use node_types::Digest;
use tokio::sync::mpsc;

use super::{
    ContainerPlan,
    archive::{Archive, Broken},
    engine::Engine,
    error::{ContainerError, is_missing},
};

/// Bytes that are handed to the engine at once: 256 KiB.
const PART_BYTES: usize = 256 << 10;
/// Parts that wait for the engine.
const PARTS_MAX: usize = 4;

/// What was found of the image that a container is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageFacts {
    /// The digest of its manifest.
    pub manifest: Digest,
    /// The digest of its configuration. None for an engine that names images by their manifest and pulled this one: there
    /// the manifest fixes it.
    pub config: Option<Digest>,
    /// Its platform, as in `linux/amd64`.
    pub platform: String,
}

/// An image that the engine has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Image {
    /// What the engine calls it; containers are made of this.
    pub(super) id: String,
    pub(super) facts: ImageFacts,
}

/// The image of `plan`: found, loaded from its archive, or pulled. May take long; dropping the future breaks it off.
///
/// # Errors
/// [`ContainerError`].
pub(super) async fn obtain(engine: &Engine, plan: &ContainerPlan) -> Result<Image, ContainerError> {
    let by_digest = format!("{}@{}", plan.image, plan.digest);
    if let Some(found) = inspect(engine, &by_digest).await? {
        return judge(plan, &found, None);
    }
    let archive = archive(plan).await?;
    let named = archive.as_ref().map(|archive| archive.config()).transpose()?;
    if let (Some(expected), Some(found)) = (plan.config_digest, named)
        && expected != found
    {
        return Err(other_config(plan, expected, found.to_string()));
    }
    let known = [named.or(plan.config_digest), archive.as_ref().map(|_| plan.digest)];
    for id in known.into_iter().flatten() {
        if let Some(found) = inspect(engine, &id.to_string()).await? {
            return judge(plan, &found, named);
        }
    }
    let wanted = match (archive, named) {
        (Some(archive), Some(config)) => {
            load(engine, archive).await?;
            match inspect(engine, &config.to_string()).await? {
                Some(found) => return judge(plan, &found, named),
                None => plan.digest.to_string(),
            }
        }
        _ => {
            pull(engine, plan, &by_digest).await?;
            by_digest
        }
    };
    match inspect(engine, &wanted).await? {
        Some(found) => judge(plan, &found, named),
        None => Err(ContainerError::Silent { what: "where the image is that it took" }),
    }
}

/// Whether the engine has an image, under any of the names that it may have for it: one that came from an archive has no
/// repository, and earlier engines name it by its configuration.
///
/// # Errors
/// [`ContainerError::Engine`].
pub(super) async fn is_here(
    engine: &Engine,
    image: &str,
    digest: Digest,
    config_digest: Option<Digest>,
) -> Result<bool, ContainerError> {
    let ids = [Some(digest), config_digest].into_iter().flatten().map(|id| id.to_string());
    for name in [format!("{image}@{digest}")].into_iter().chain(ids) {
        if inspect(engine, &name).await?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What the engine has under a name, if anything.
async fn inspect(engine: &Engine, name: &str) -> Result<Option<ImageInspect>, ContainerError> {
    match engine.quick.inspect_image(name).await {
        Ok(found) => Ok(Some(found)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(ContainerError::engine(format!("look for the image {name}"))(error)),
    }
}

/// Compares what the engine says of an image with what is approved. `named` is the configuration by an archive's manifest.
fn judge(plan: &ContainerPlan, found: &ImageInspect, named: Option<Digest>) -> Result<Image, ContainerError> {
    let id = found.id.clone().unwrap_or_default();
    let expected = named.or(plan.config_digest);
    let config = if id == plan.digest.to_string() {
        expected
    } else {
        let config: Digest =
            id.parse().map_err(|_| ContainerError::Silent { what: "the image's configuration" })?;
        // Both where both are known: they may disagree.
        for expected in [named, plan.config_digest].into_iter().flatten() {
            if expected != config {
                return Err(other_config(plan, expected, id));
            }
        }
        Some(config)
    };
    let platform = platform(found);
    if let Some(expected) = &plan.platform
        && !fits(expected, &platform)
    {
        let (expected, digest) = (expected.clone(), plan.digest);
        return Err(ContainerError::OtherPlatform { digest, expected, found: platform });
    }
    Ok(Image { id, facts: ImageFacts { manifest: plan.digest, config, platform } })
}

fn other_config(plan: &ContainerPlan, expected: Digest, found: String) -> ContainerError {
    ContainerError::OtherConfig { digest: plan.digest, expected, found }
}

/// System, architecture and, where there is one, variant.
fn platform(found: &ImageInspect) -> String {
    let parts = [&found.os, &found.architecture, &found.variant];
    let parts = parts.into_iter().flatten().map(String::as_str).filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("/")
}

/// Whether a platform is the approved one. One that names no variant takes any.
fn fits(expected: &str, found: &str) -> bool {
    found == expected || (found.starts_with(expected) && found[expected.len()..].starts_with('/'))
}

/// Where the image's archive stands.
fn archive_path(plan: &ContainerPlan) -> Option<PathBuf> {
    plan.images.as_ref().map(|images| images.join(format!("{}.tar", plan.digest.hex())))
}

async fn archive(plan: &ContainerPlan) -> Result<Option<Archive>, ContainerError> {
    let Some(path) = archive_path(plan) else { return Ok(None) };
    let digest = plan.digest;
    let opened = {
        let path = path.clone();
        tokio::task::spawn_blocking(move || Archive::open(&path, digest)).await
    };
    opened.map_err(|error| ContainerError::Read { path, source: io::Error::other(error) })?
}

async fn pull(engine: &Engine, plan: &ContainerPlan, name: &str) -> Result<(), ContainerError> {
    let options = CreateImageOptionsBuilder::default().from_image(name);
    let options = match &plan.platform {
        Some(platform) => options.platform(platform),
        None => options,
    };
    let pulling = engine.patient.create_image(Some(options.build()), None, None);
    let pulled: Result<(), EngineError> = pulling.try_for_each(|_| std::future::ready(Ok(()))).await;
    pulled.map_err(|source| {
        let name = name.to_owned();
        match archive_path(plan) {
            Some(archive) => ContainerError::NoImage { name, archive, source },
            None => ContainerError::NotPulled { name, source },
        }
    })
}

/// Hands the archive to the engine.
async fn load(engine: &Engine, archive: Archive) -> Result<(), ContainerError> {
    let archive = Arc::new(archive);
    let (parts, body) = mpsc::channel(PARTS_MAX);
    let writing = {
        let archive = Arc::clone(&archive);
        tokio::task::spawn_blocking(move || {
            let written = archive.write(BufWriter::with_capacity(PART_BYTES, Parts(parts.clone())));
            if written.is_err() {
                // Breaks the request off. Whoever does not read any more needs no telling.
                let _ = parts.blocking_send(Err(io::Error::other("the archive is not what it should be")));
            }
            written
        })
    };
    let options = ImportImageOptionsBuilder::default().quiet(true).build();
    let loading = engine.patient.import_image_stream(options, received(body), None);
    let loaded: Result<(), EngineError> = loading.try_for_each(|_| std::future::ready(Ok(()))).await;
    match writing.await {
        Ok(Err(Broken::Archive(error))) => Err(error),
        Ok(Ok(()) | Err(Broken::Reader)) | Err(_) => loaded.map_err(ContainerError::engine("load the image")),
    }
}

fn received(
    body: mpsc::Receiver<io::Result<Bytes>>,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    stream::unfold(body, async |mut body| body.recv().await.map(|part| (part, body))).boxed()
}

/// Hands on what is written.
struct Parts(mpsc::Sender<io::Result<Bytes>>);

impl Write for Parts {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let part = Ok(Bytes::copy_from_slice(bytes));
        self.0.blocking_send(part).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_platform_without_a_variant_takes_any_and_one_with_a_variant_itself_alone() {
        assert!(fits("linux/amd64", "linux/amd64") && fits("linux/arm", "linux/arm/v7"));
        for (expected, found) in [
            ("linux/arm", "linux/arm64"),
            ("linux/arm/v7", "linux/arm"),
            ("linux/amd64", "linux/arm64"),
            ("linux", ""),
        ] {
            assert!(!fits(expected, found), "{expected} {found}");
        }
    }
}
