//! The headers of model files, checked for sense before a runtime reads them: GGUF and safetensors.
//!
//! A runtime reserves memory by what a header says. So every count and length in it is held against the length of the
//! file, and every tensor must lie inside. Nothing here reserves memory by what the file says: it is read through a small
//! buffer, and a safetensors header, which is JSON, is at most 100 MB long.
//!
//! Left out on purpose: whether the weights are the ones that are wanted (their hash says that), and whether a runtime
//! knows what the header asks for.

mod gguf;
mod safetensors;

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek},
    path::{Path, PathBuf},
};

/// How much of a file is read at once: 64 KiB.
const BUFFER_BYTES: usize = 64 << 10;
/// How much of a name is quoted in an error, in bytes.
const QUOTED_BYTES_MAX: usize = 64;

/// Why a model file should not reach a runtime.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// It cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its header contradicts itself or the file.
    #[error(
        "{name} is no sound {format} file: {problem}. It is what the snapshot lists, so the network has to list another one"
    )]
    Unsound {
        /// The file's name in its model.
        name: String,
        /// What it should be.
        format: &'static str,
        /// What is wrong.
        problem: String,
    },
}

/// What ends a check.
#[derive(Debug)]
enum Flaw {
    Io(io::Error),
    Unsound(String),
}

impl From<io::Error> for Flaw {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Checks the header of a file at `path` that its model calls `name`. A file of another format than GGUF and safetensors
/// has none that is known here, and passes.
///
/// A file is GGUF by its first four bytes or by the end of its name, and safetensors by the end of its name. Blocks.
///
/// # Errors
/// [`HeaderError`].
#[expect(clippy::disallowed_methods, reason = "the headers of model files are read here and nowhere else")]
pub fn check(path: &Path, name: &str) -> Result<(), HeaderError> {
    let failed = |source| HeaderError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    check_in(BufReader::with_capacity(BUFFER_BYTES, file), bytes, name).map_err(|(format, flaw)| match flaw {
        Flaw::Io(source) => failed(source),
        Flaw::Unsound(problem) => HeaderError::Unsound { name: name.to_owned(), format, problem },
    })
}

fn check_in<R: Read + Seek>(
    mut file: BufReader<R>,
    bytes: u64,
    name: &str,
) -> Result<(), (&'static str, Flaw)> {
    let ends = |ending: &str| {
        name.get(name.len().saturating_sub(ending.len())..)
            .is_some_and(|end| end.eq_ignore_ascii_case(ending))
    };
    let mut magic = [0; 4];
    let is_gguf = bytes >= 4 && {
        file.read_exact(&mut magic).and_then(|()| file.rewind()).map_err(|error| ("model", error.into()))?;
        magic == gguf::MAGIC
    };
    if is_gguf || ends(".gguf") {
        return gguf::check(&mut Header { file, at: 0, bytes }).map_err(|flaw| ("GGUF", flaw));
    }
    if ends(".safetensors") {
        return safetensors::check(&mut Header { file, at: 0, bytes }).map_err(|flaw| ("safetensors", flaw));
    }
    Ok(())
}

/// A file that is read from its beginning, and never beyond its end.
struct Header<R> {
    file: BufReader<R>,
    at: u64,
    bytes: u64,
}

impl<R: Read + Seek> Header<R> {
    /// What is left of the file.
    fn left(&self) -> u64 {
        self.bytes - self.at
    }

    /// Passes over so many bytes, which `what` says are there.
    fn claim(&mut self, bytes: u64, what: &str) -> Result<(), Flaw> {
        if bytes > self.left() {
            let (left, at) = (self.left(), self.at);
            let problem =
                format!("{what} takes {bytes} bytes, and after the first {at} there are only {left}");
            return Err(Flaw::Unsound(problem));
        }
        self.at += bytes;
        Ok(())
    }

    fn skip(&mut self, bytes: u64, what: &str) -> Result<(), Flaw> {
        self.claim(bytes, what)?;
        // Within a file, and no file is longer than this type tells.
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        Ok(self.file.seek_relative(bytes)?)
    }

    fn read<const N: usize>(&mut self, what: &str) -> Result<[u8; N], Flaw> {
        self.claim(N as u64, what)?;
        let mut read = [0; N];
        self.file.read_exact(&mut read)?;
        Ok(read)
    }

    fn u32(&mut self, what: &str) -> Result<u32, Flaw> {
        self.read(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64, Flaw> {
        self.read(what).map(u64::from_le_bytes)
    }

    /// The beginning of a text of so many bytes, to be quoted; the rest is passed over.
    fn text(&mut self, bytes: u64, what: &str) -> Result<String, Flaw> {
        self.claim(bytes, what)?;
        let mut text = vec![0; usize::try_from(bytes).unwrap_or(usize::MAX).min(QUOTED_BYTES_MAX)];
        self.file.read_exact(&mut text)?;
        let rest = bytes - text.len() as u64;
        self.file.seek_relative(i64::try_from(rest).unwrap_or(i64::MAX))?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

fn unsound<T>(problem: impl Into<String>) -> Result<T, Flaw> {
    Err(Flaw::Unsound(problem.into()))
}
