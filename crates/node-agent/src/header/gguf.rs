//! GGUF, versions 2 and 3, little-endian: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.
//!
//! ```text
//! "GGUF"  version u32  tensors u64  pairs u64
//! pairs:   key text, type u32, value            text: length u64, bytes
//! tensors: name text, dimensions u32, each u64, type u32, offset u64 into the data
//! padding to the alignment, data
//! ```

use std::io::{Read, Seek};

use super::{Flaw, Header, unsound};

pub(super) const MAGIC: [u8; 4] = *b"GGUF";

/// The longest header in bytes: 1 GiB, a hundred times that of a large vocabulary.
const HEADER_BYTES_MAX: u64 = 1 << 30;
/// The longest key in bytes.
const KEY_BYTES_MAX: u64 = (1 << 16) - 1;
/// The longest name of a tensor in bytes.
const NAME_BYTES_MAX: u64 = 64;
/// The most dimensions of a tensor.
const DIMENSIONS_MAX: u32 = 4;
/// How deep arrays may stand in arrays.
const DEPTH_MAX: u32 = 4;
/// The least that a pair takes: an empty key, a type, a byte.
const PAIR_BYTES_MIN: u64 = 8 + 4 + 1;
/// The least that a tensor takes: an empty name, no dimensions, a type, an offset.
const TENSOR_BYTES_MIN: u64 = 8 + 4 + 4 + 8;
/// Where data begins and tensors stand, unless the file says otherwise.
const ALIGNMENT: u64 = 32;
/// The largest alignment that makes sense: 1 MiB.
const ALIGNMENT_MAX: u64 = 1 << 20;

const U32: u32 = 4;
const TEXT: u32 = 8;
const ARRAY: u32 = 9;

/// The tensor that ends last.
struct Last {
    name: String,
    end: u64,
}

pub(super) fn check<R: Read + Seek>(header: &mut Header<R>) -> Result<(), Flaw> {
    if header.read::<4>("its magic")? != MAGIC {
        return unsound("it does not begin with \"GGUF\"");
    }
    match header.u32("its version")? {
        2 | 3 => {}
        version if matches!(version.swap_bytes(), 1..=3) => return unsound("it is big-endian"),
        version => return unsound(format!("it has version {version}, and 2 and 3 are known")),
    }
    let tensors = header.u64("the count of tensors")?;
    let pairs = header.u64("the count of pairs")?;
    count(header, "tensors", tensors, TENSOR_BYTES_MIN)?;
    count(header, "pairs", pairs, PAIR_BYTES_MIN)?;
    let mut alignment = ALIGNMENT;
    for number in 0..pairs {
        pair(header, number, &mut alignment)?;
        within_header(header)?;
    }
    // Pairs have taken their part of what is left.
    count(header, "tensors", tensors, TENSOR_BYTES_MIN)?;
    let mut last = Last { name: String::new(), end: 0 };
    for number in 0..tensors {
        tensor(header, number, alignment, &mut last)?;
        within_header(header)?;
    }
    let data = header.at.next_multiple_of(alignment);
    if tensors > 0 && data.saturating_add(last.end) > header.bytes {
        let Last { name, end } = last;
        let has = header.bytes.saturating_sub(data);
        return unsound(format!(
            "tensor {name:?} ends at byte {end} of the data, of which the file has {has}"
        ));
    }
    Ok(())
}

/// Things that take at least so many bytes each must have room for all of them.
fn count<R: Read + Seek>(header: &Header<R>, what: &str, counted: u64, bytes_min: u64) -> Result<(), Flaw> {
    let room = header.left().min(HEADER_BYTES_MAX) / bytes_min;
    if counted > room {
        return unsound(format!("it says that it has {counted} {what}, and there is room for {room}"));
    }
    Ok(())
}

fn within_header<R: Read + Seek>(header: &Header<R>) -> Result<(), Flaw> {
    if header.at > HEADER_BYTES_MAX {
        return unsound(format!("its header is longer than {HEADER_BYTES_MAX} bytes"));
    }
    Ok(())
}

fn pair<R: Read + Seek>(header: &mut Header<R>, number: u64, alignment: &mut u64) -> Result<(), Flaw> {
    let length = header.u64("the length of a key")?;
    if length > KEY_BYTES_MAX {
        return unsound(format!("key {number} has {length} bytes, {KEY_BYTES_MAX} is the most"));
    }
    let key = header.text(length, "a key")?;
    let kind = header.u32("the type of a value")?;
    if key != "general.alignment" {
        return value(header, &key, kind, 0);
    }
    if kind != U32 {
        return unsound(format!("general.alignment has type {kind}, it must have {U32} (u32)"));
    }
    *alignment = u64::from(header.u32("general.alignment")?);
    if !alignment.is_power_of_two() || !(8..=ALIGNMENT_MAX).contains(alignment) {
        let problem = format!("general.alignment is {alignment}, no power of two from 8 to {ALIGNMENT_MAX}");
        return unsound(problem);
    }
    Ok(())
}

/// How many bytes a value of a fixed length has.
const fn fixed(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

fn value<R: Read + Seek>(header: &mut Header<R>, key: &str, kind: u32, depth: u32) -> Result<(), Flaw> {
    if let Some(bytes) = fixed(kind) {
        return header.skip(bytes, "a value");
    }
    match kind {
        TEXT => {
            let length = header.u64("the length of a text")?;
            header.skip(length, &format!("the text of {key:?}"))
        }
        ARRAY if depth == DEPTH_MAX => {
            unsound(format!("{key:?} has arrays in arrays, more than {DEPTH_MAX} deep"))
        }
        ARRAY => {
            let kind = header.u32("the type of an array")?;
            let length = header.u64("the length of an array")?;
            let what = format!("entries of {key:?}");
            if let Some(bytes) = fixed(kind) {
                count(header, &what, length, bytes)?;
                return header.skip(length * bytes, &what);
            }
            // A text and an array begin with a length.
            count(header, &what, length, 8)?;
            for _ in 0..length {
                value(header, key, kind, depth + 1)?;
                within_header(header)?;
            }
            Ok(())
        }
        kind => unsound(format!("{key:?} has type {kind}, which there is not")),
    }
}

fn tensor<R: Read + Seek>(
    header: &mut Header<R>,
    number: u64,
    alignment: u64,
    last: &mut Last,
) -> Result<(), Flaw> {
    let length = header.u64("the length of a tensor's name")?;
    if length > NAME_BYTES_MAX {
        return unsound(format!(
            "the name of tensor {number} has {length} bytes, {NAME_BYTES_MAX} is the most"
        ));
    }
    let name = header.text(length, "a tensor's name")?;
    let dimensions = header.u32("the count of dimensions")?;
    if dimensions > DIMENSIONS_MAX {
        return unsound(format!("tensor {name:?} has {dimensions} dimensions, {DIMENSIONS_MAX} is the most"));
    }
    let (mut elements, mut row) = (Some(1_u64), 1);
    for dimension in 0..dimensions {
        let length = header.u64("a dimension")?;
        if dimension == 0 {
            row = length;
        }
        elements = elements.and_then(|elements| elements.checked_mul(length));
    }
    let kind = header.u32("the type of a tensor")?;
    let offset = header.u64("the offset of a tensor")?;
    if !offset.is_multiple_of(alignment) {
        return unsound(format!("tensor {name:?} stands at {offset}, no multiple of {alignment}"));
    }
    // Of a type that is not known here the beginning alone can be judged.
    let (block, block_bytes) = block_of(kind).unwrap_or((1, 0));
    if !row.is_multiple_of(block) {
        return unsound(format!("a row of tensor {name:?} has {row} elements, no multiple of {block}"));
    }
    let end = elements
        .and_then(|elements| (elements / block).checked_mul(block_bytes))
        .and_then(|bytes| offset.checked_add(bytes));
    let Some(end) = end else {
        return unsound(format!("tensor {name:?} is larger than any file"));
    };
    if end >= last.end {
        *last = Last { name, end };
    }
    Ok(())
}

/// How many elements a block of a type has, and how many bytes. The numbers are ggml's.
///
/// Types that never stand in files, and those of later releases, are not known.
const fn block_of(kind: u32) -> Option<(u64, u64)> {
    match kind {
        // F32, F16, BF16, F64, and whole numbers of 8, 16, 32 and 64 bits.
        0 | 26 => Some((1, 4)),
        1 | 25 | 30 => Some((1, 2)),
        24 => Some((1, 1)),
        27 | 28 => Some((1, 8)),
        // Q4_0 and IQ4_NL, Q4_1, Q5_0, Q5_1, Q8_0, MXFP4.
        2 | 20 => Some((32, 18)),
        3 => Some((32, 20)),
        6 => Some((32, 22)),
        7 => Some((32, 24)),
        8 => Some((32, 34)),
        39 => Some((32, 17)),
        // Q2_K, Q3_K and IQ3_S, Q4_K, Q5_K, Q6_K.
        10 => Some((256, 84)),
        11 | 21 => Some((256, 110)),
        12 => Some((256, 144)),
        13 => Some((256, 176)),
        14 => Some((256, 210)),
        // IQ2_XXS and TQ2_0, IQ2_XS, IQ3_XXS, IQ1_S, IQ2_S, IQ4_XS, IQ1_M, TQ1_0.
        16 | 35 => Some((256, 66)),
        17 => Some((256, 74)),
        18 => Some((256, 98)),
        19 => Some((256, 50)),
        22 => Some((256, 82)),
        23 => Some((256, 136)),
        29 => Some((256, 56)),
        34 => Some((256, 54)),
        _ => None,
    }
}
