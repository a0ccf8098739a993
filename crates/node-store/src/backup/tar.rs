//! The little of tar (POSIX.1-1988, ustar) that an archive needs: plain files, one form.
//!
//! A header is written in one way only, and what is read must be that, byte for byte. So there are no links, no folders,
//! no long names, no sparse files and no owners to be wrong about.

/// A block of a tar in bytes.
pub(super) const BLOCK: usize = 512;
/// The longest member in bytes: what eleven octal digits can say, 8 GiB less one.
pub const MEMBER_BYTES_MAX: u64 = (8 << 30) - 1;

const SIZE: std::ops::Range<usize> = 124..136;
const CHECKSUM: std::ops::Range<usize> = 148..156;
const KIND: usize = 156;

/// The header of a file: mode 0600, no owner, no time. `bytes` is at most [`MEMBER_BYTES_MAX`], `name` at most 99 bytes.
pub(super) fn header(name: &str, bytes: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    put(100, b"0000600\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(SIZE.start, format!("{bytes:011o}\0").as_bytes());
    put(136, b"00000000000\0");
    put(CHECKSUM.start, b"        ");
    put(KIND, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// The length that a header says, if it is a number of eleven octal digits.
pub(super) fn size(block: &[u8; BLOCK]) -> Option<u64> {
    let text = std::str::from_utf8(&block[SIZE]).ok()?.strip_suffix('\0')?;
    let octal = text.len() == 11 && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    octal.then(|| u64::from_str_radix(text, 8).ok()).flatten()
}

/// What stands where a header was expected, for a person.
pub(super) fn described(block: &[u8; BLOCK]) -> String {
    if block.iter().all(|byte| *byte == 0) {
        return "the end".to_owned();
    }
    let name: Vec<u8> = block[..100].iter().copied().take_while(|byte| *byte != 0).collect();
    let name = String::from_utf8_lossy(&name).into_owned();
    let kind = match block[KIND] {
        b'0' | 0 => "a file",
        b'1' => "a hard link",
        b'2' => "a symbolic link",
        b'5' => "a folder",
        _ => "something else",
    };
    format!(
        "{kind} named {name:?} of {} bytes",
        size(block).map_or("unreadable".to_owned(), |it| it.to_string())
    )
}

/// Zero bytes that follow a file of this length.
pub(super) const fn padding(bytes: u64) -> usize {
    // Below the length of a block.
    #[expect(clippy::cast_possible_truncation, reason = "a remainder of 512")]
    let over = (bytes % BLOCK as u64) as usize;
    if over == 0 { 0 } else { BLOCK - over }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_says_its_length_and_what_it_is() {
        for bytes in [0, 1, 511, 512, 513, MEMBER_BYTES_MAX] {
            assert_eq!(size(&header("state.db", bytes)), Some(bytes));
        }
        let mut link = header("../evil", 0);
        link[KIND] = b'2';
        assert_eq!(described(&link), "a symbolic link named \"../evil\" of 0 bytes");
        assert_eq!(described(&[0; BLOCK]), "the end");
        assert_eq!([0, 1, 512, 513].map(padding), [0, 511, 0, 511]);
    }

    /// Other programs must be able to read it: `tar` is on every machine that has a node.
    #[test]
    fn a_header_is_read_by_tar() {
        let mut archive = header("keys/node.key", 3).to_vec();
        archive.extend(b"abc");
        archive.resize(archive.len() + padding(3), 0);
        archive.resize(archive.len() + 2 * BLOCK, 0);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tar");
        crate::disk::write_new(&crate::disk::RealDisk, &path, &archive).unwrap();
        let output =
            std::process::Command::new("tar").arg("-xOf").arg(&path).arg("keys/node.key").output().unwrap();
        assert_eq!((output.stdout.as_slice(), output.status.success()), (b"abc".as_slice(), true));
    }
}
