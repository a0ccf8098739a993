//! safetensors: <https://github.com/huggingface/safetensors#format>.
//!
//! ```text
//! length u64, little-endian | that many bytes of JSON | data
//! {"<tensor>": {"dtype": "F16", "shape": [..], "data_offsets": [first, end]}, "__metadata__": {..}}
//! ```

use std::{
    fmt,
    io::{Read, Seek},
};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::{Flaw, Header, QUOTED_BYTES_MAX, unsound};

/// The longest header in bytes: 100 MB, the format's own limit.
pub(super) const HEADER_BYTES_MAX: u64 = 100_000_000;
/// The most dimensions of a tensor.
const DIMENSIONS_MAX: usize = 64;

pub(super) fn check<R: Read + Seek>(header: &mut Header<R>) -> Result<(), Flaw> {
    let length = header.u64("the length of its header")?;
    let most = HEADER_BYTES_MAX.min(header.left());
    if length > most {
        return unsound(format!(
            "it says that its header has {length} bytes, and at most {most} are possible"
        ));
    }
    header.claim(length, "its header")?;
    let data = header.left();
    // It is read as it stands in the file; only the text that is being read is held, which is never longer than the header.
    let mut input = serde_json::Deserializer::from_reader((&mut header.file).take(length));
    let read = Tensors::deserialize(&mut input).and_then(|tensors| input.end().map(|()| tensors));
    let Tensors(mut ranges) = match read {
        Ok(tensors) => tensors,
        Err(error) if error.is_io() => return Err(Flaw::Io(error.into())),
        Err(error) => return unsound(format!("its header is not what it should be: {error}")),
    };
    ranges.sort_unstable();
    let mut before = 0;
    for (first, end) in ranges {
        if first < before {
            return unsound(format!("two tensors overlap at byte {first} of the data"));
        }
        if end > data {
            return unsound(format!("a tensor ends at byte {end} of the data, of which the file has {data}"));
        }
        before = end;
    }
    Ok(())
}

/// Where tensors with any content begin and end.
struct Tensors(Vec<(u64, u64)>);

impl<'de> Deserialize<'de> for Tensors {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Tensors;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tensors, A::Error> {
                let mut ranges = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    let quoted: String = name.chars().take(QUOTED_BYTES_MAX).collect();
                    let tensor: Tensor = map.next_value()?;
                    let range = tensor
                        .range()
                        .map_err(|problem| A::Error::custom(format_args!("tensor {quoted:?} {problem}")))?;
                    if range.0 < range.1 {
                        ranges.push(range);
                    }
                }
                Ok(Tensors(ranges))
            }
        }
        input.deserialize_map(All)
    }
}

#[derive(Deserialize)]
struct Tensor {
    dtype: String,
    shape: Shape,
    data_offsets: (u64, u64),
}

impl Tensor {
    fn range(&self) -> Result<(u64, u64), String> {
        let (first, end) = self.data_offsets;
        let Some(bytes) = end.checked_sub(first) else {
            return Err(format!("ends at {end} before it begins at {first}"));
        };
        // The length of a type that is not known here cannot be judged.
        if let Some(bits) = bits_of(&self.dtype) {
            let needed = self.shape.0.checked_mul(bits).map(|bits| bits.div_ceil(8));
            if needed != Some(bytes) {
                return Err(format!("has {bytes} bytes, which its type and its shape do not take"));
            }
        }
        Ok((first, end))
    }
}

/// How many bits an element of a type has.
fn bits_of(dtype: &str) -> Option<u64> {
    match dtype {
        "F4" => Some(4),
        "F6_E2M3" | "F6_E3M2" => Some(6),
        "BOOL" | "U8" | "I8" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" => Some(8),
        "U16" | "I16" | "F16" | "BF16" => Some(16),
        "U32" | "I32" | "F32" => Some(32),
        "U64" | "I64" | "F64" | "C64" => Some(64),
        _ => None,
    }
}

/// How many elements a shape has. Its list is counted and not kept: a hostile one is as long as the header.
struct Shape(u64);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct Dimensions;
        impl<'de> Visitor<'de> for Dimensions {
            type Value = Shape;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a list of dimensions")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Shape, A::Error> {
                let mut elements = 1_u64;
                let mut dimensions = 0;
                while let Some(length) = list.next_element::<u64>()? {
                    dimensions += 1;
                    elements = elements
                        .checked_mul(length)
                        .filter(|_| dimensions <= DIMENSIONS_MAX)
                        .ok_or_else(|| A::Error::custom("a shape is larger than any tensor's"))?;
                }
                Ok(Shape(elements))
            }
        }
        input.deserialize_seq(Dimensions)
    }
}
