//! The headers of model files: the real one passes, and no hostile one costs memory or a panic.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test that cannot go on must fail, and its files are no part of the product"
)]

use std::{fs, path::Path, process::Command};

use node_agent::header::{HeaderError, check};
use proptest::prelude::*;
use rustix::process::{Resource, Rlimit, setrlimit};

/// Above what the process has when the limit is set, in bytes; a hostile count asks for more.
const MEMORY_BYTES: u64 = 256 << 20;

fn judge(bytes: &[u8], name: &str) -> Result<(), HeaderError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    fs::write(&path, bytes).unwrap();
    check(&path, name)
}

fn problem(bytes: &[u8], name: &str) -> String {
    match judge(bytes, name) {
        Err(HeaderError::Unsound { problem, .. }) => problem,
        other => panic!("{other:?}"),
    }
}

/// A header that is written part by part.
#[derive(Clone, Default)]
struct Written(Vec<u8>);

impl Written {
    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u32(self, number: u32) -> Self {
        self.bytes(&number.to_le_bytes())
    }

    fn u64(self, number: u64) -> Self {
        self.bytes(&number.to_le_bytes())
    }

    fn text(self, text: &str) -> Self {
        self.u64(text.len() as u64).bytes(text.as_bytes())
    }

    fn gguf(tensors: u64, pairs: u64) -> Self {
        Self::default().bytes(b"GGUF").u32(3).u64(tensors).u64(pairs)
    }

    fn tensor(self, name: &str, dimensions: &[u64], kind: u32, offset: u64) -> Self {
        let head = self.text(name).u32(u32::try_from(dimensions.len()).unwrap());
        dimensions.iter().fold(head, |head, length| head.u64(*length)).u32(kind).u64(offset)
    }

    /// Padded to `alignment`, and so many bytes after it.
    fn data(mut self, alignment: usize, bytes: usize) -> Vec<u8> {
        let begin = self.0.len().next_multiple_of(alignment);
        self.0.resize(begin + bytes, 0);
        self.0
    }
}

/// Every type of value, two tensors, and exactly the data that they need.
fn sound_gguf() -> Vec<u8> {
    let mut header = Written::gguf(2, 6).text("general.alignment").u32(4).u32(64);
    header = header.text("a.text").u32(8).text("llama");
    header = header.text("a.flag").u32(7).bytes(&[1]);
    header = header.text("numbers").u32(9).u32(5).u64(3).u32(1).u32(2).u32(3);
    header = header.text("texts").u32(9).u32(8).u64(2).text("one").text("two");
    header = header.text("nested").u32(9).u32(9).u64(1).u32(10).u64(2).u64(7).u64(8);
    // 32 elements of Q4_0 take 18 bytes; 5 of F32 take 20 and end the file.
    header.tensor("first", &[32], 2, 0).tensor("second", &[5, 1], 0, 64).data(64, 64 + 20)
}

fn safetensors(json: &str, data: usize) -> Vec<u8> {
    Written::default().text(json).data(1, data)
}

const TWO: &str = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12]},
    "b":{"dtype":"F32","shape":[],"data_offsets":[12,16]}}"#;

#[test]
fn the_real_model_and_sound_headers_pass() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let set_up = Command::new(repository.join("scripts/runtime")).output().unwrap();
    assert!(set_up.status.success(), "scripts/runtime: {}", String::from_utf8_lossy(&set_up.stderr));
    let model = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818";
    check(&repository.join(".tools/models").join(model), "model.gguf").unwrap();

    judge(&sound_gguf(), "model.gguf").unwrap();
    judge(&sound_gguf(), "named otherwise").unwrap();
    judge(&safetensors(TWO, 16), "model.safetensors").unwrap();
    judge(&safetensors("{}", 0), "model.SafeTensors").unwrap();
    for (bytes, name) in [(&b"{}"[..], "config.json"), (b"GG", "a"), (b"", "empty.txt")] {
        judge(bytes, name).unwrap();
    }
}

#[test]
fn a_file_that_is_cut_anywhere_is_refused() {
    let gguf = sound_gguf();
    for length in 4..gguf.len() {
        problem(&gguf[..length], "model.gguf");
    }
    let tensors = safetensors(TWO, 16);
    for length in 0..tensors.len() {
        problem(&tensors[..length], "model.safetensors");
    }
    assert!(problem(b"GG", "model.gguf").contains("takes 4 bytes"));
    assert!(problem(b"PK\x03\x04", "model.gguf").contains("GGUF"));
}

/// Each of these once made some reader reserve memory, loop or read beyond the end.
fn hostile() -> Vec<(Vec<u8>, &'static str, &'static str)> {
    let huge = u64::MAX;
    let one = |json: &str| safetensors(&format!("{{\"a\":{json}}}"), 16);
    let gguf = |header: Written| header.data(1, 4096);
    let tensor = |dimensions: &[u64], kind, offset| {
        Written::gguf(1, 0).tensor("t", dimensions, kind, offset).data(32, 4096)
    };
    let named = |name: &str| Written::gguf(0, 1).text(name);
    let deep = (0..8).fold(named("k").u32(9), |header, _| header.u32(9).u64(1));
    vec![
        (gguf(Written::default().bytes(b"GGUF").u32(1)), ".gguf", "version 1"),
        (gguf(Written::default().bytes(b"GGUF").u32(3_u32.swap_bytes())), ".gguf", "big-endian"),
        (gguf(Written::gguf(huge, 0)), ".gguf", "tensors, and there is room for"),
        (gguf(Written::gguf(1 << 40, 0)), ".gguf", "tensors, and there is room for"),
        (gguf(Written::gguf(0, huge)), ".gguf", "pairs, and there is room for"),
        (gguf(Written::gguf(0, 1).u64(huge)), ".gguf", "key 0 has"),
        (gguf(Written::gguf(0, 1).u64(60_000)), ".gguf", "a key takes 60000 bytes"),
        (gguf(named("k").u32(8).u64(huge)), ".gguf", "the text of \"k\" takes"),
        (gguf(named("k").u32(9).u32(4).u64(huge)), ".gguf", "entries of \"k\""),
        (gguf(named("k").u32(9).u32(4).u64(huge / 4 + 1)), ".gguf", "entries of \"k\""),
        (gguf(named("k").u32(9).u32(8).u64(huge / 8)), ".gguf", "entries of \"k\""),
        (gguf(named("k").u32(9).u32(13).u64(1)), ".gguf", "type 13"),
        (gguf(named("k").u32(77)), ".gguf", "type 77"),
        (gguf(deep), ".gguf", "arrays in arrays"),
        (gguf(named("general.alignment").u32(4).u32(0)), ".gguf", "alignment is 0"),
        (gguf(named("general.alignment").u32(4).u32(24)), ".gguf", "alignment is 24"),
        (gguf(named("general.alignment").u32(4).u32(1 << 31)), ".gguf", "alignment is 2147483648"),
        (gguf(named("general.alignment").u32(10).u64(32)), ".gguf", "type 10"),
        (gguf(Written::gguf(1, 0).u64(65)), ".gguf", "65 bytes"),
        (gguf(Written::gguf(1, 0).text("t").u32(5)), ".gguf", "5 dimensions"),
        (tensor(&[huge, huge], 0, 0), ".gguf", "larger than any file"),
        (tensor(&[huge / 4 + 1], 0, 0), ".gguf", "larger than any file"),
        (tensor(&[1], 0, huge - 31), ".gguf", "ends at byte"),
        (tensor(&[1025], 0, 0), ".gguf", "ends at byte 4100 of the data, of which the file has 4096"),
        (tensor(&[1], 200, 8192), ".gguf", "ends at byte 8192"),
        (tensor(&[31], 2, 0), ".gguf", "no multiple of 32"),
        (tensor(&[1], 0, 4), ".gguf", "no multiple of 32"),
        (Written::default().u64(huge).data(1, 64), ".safetensors", "at most 64 are possible"),
        (Written::default().u64(100_000_001).data(1, 100_000_008), ".safetensors", "at most 100000000"),
        (safetensors("[]", 0), ".safetensors", "an object of tensors"),
        (safetensors("{} x", 0), ".safetensors", "trailing"),
        (safetensors(&"[".repeat(100_000), 0), ".safetensors", "not what it should be"),
        (safetensors(&format!("{{\"__metadata__\":{}", "[".repeat(100_000)), 0), ".safetensors", "EOF"),
        (one(r#"{"dtype":"F32","shape":[4],"data_offsets":[0,17]}"#), ".safetensors", "\"a\" has 17 bytes"),
        (one(r#"{"dtype":"F32","shape":[5],"data_offsets":[0,20]}"#), ".safetensors", "ends at byte 20"),
        (one(r#"{"dtype":"new","shape":[5],"data_offsets":[0,17]}"#), ".safetensors", "ends at byte 17"),
        (one(r#"{"dtype":"F32","shape":[1],"data_offsets":[4,0]}"#), ".safetensors", "before it begins"),
        (one(r#"{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}"#), ".safetensors", "invalid value"),
        (
            one(r#"{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,1]}"#),
            ".safetensors",
            "larger",
        ),
        (one(r#"{"dtype":"U8","dtype":"U8","shape":[],"data_offsets":[0,1]}"#), ".safetensors", "duplicate"),
        (one(&format!(r#"{{"dtype":"U8","shape":[{}1]}}"#, "1,".repeat(100_000))), ".safetensors", "larger"),
        (
            safetensors(
                r#"{"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[2],"data_offsets":[7,9]}}"#,
                16,
            ),
            ".safetensors",
            "overlap at byte 7",
        ),
    ]
}

#[test]
fn hostile_headers_are_refused_by_name() {
    for (number, (bytes, name, expected)) in hostile().into_iter().enumerate() {
        let problem = problem(&bytes, name);
        assert!(problem.contains(expected), "{number}: {problem:?} does not say {expected:?}");
    }
}

/// The process can have little more memory than it has: who reserves what a header says, dies.
#[test]
fn no_header_costs_more_memory_than_a_little() {
    let hostile = hostile();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let held = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    let held_kib: u64 = held.trim().trim_end_matches(" kB").parse().unwrap();
    let limit = Some(held_kib * 1024 + MEMORY_BYTES);
    setrlimit(Resource::As, Rlimit { current: limit, maximum: limit }).unwrap();
    for (bytes, name, _) in hostile {
        problem(&bytes, name);
    }
}

/// What makes numbers wrong: bytes, and whole numbers where a length may stand.
fn damage() -> impl Strategy<Value = Vec<(usize, u64, usize)>> {
    let number = prop_oneof![
        any::<u64>(),
        Just(u64::MAX),
        Just(1 << 63),
        Just(u64::MAX / 8 + 1),
        (0_u64..300),
        (0_u32..64).prop_map(|bit| 1 << bit),
    ];
    prop::collection::vec((any::<prop::sample::Index>(), number, 1..=8_usize), 1..4).prop_map(|all| {
        all.into_iter().map(|(at, number, width)| (at.index(1 << 16), number, width)).collect()
    })
}

fn damaged(mut bytes: Vec<u8>, damage: &[(usize, u64, usize)]) -> Vec<u8> {
    for (at, number, width) in damage {
        let at = at % bytes.len();
        let end = (at + width).min(bytes.len());
        bytes[at..end].copy_from_slice(&number.to_le_bytes()[..end - at]);
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// Given a sound header of which some bytes are others; then it passes or is refused, and that is all.
    #[test]
    fn damaged_headers_pass_or_are_refused(damage in damage()) {
        for (bytes, name) in [(sound_gguf(), "m.gguf"), (safetensors(TWO, 16), "m.safetensors")] {
            let judged = judge(&damaged(bytes, &damage), name);
            prop_assert!(!matches!(judged, Err(HeaderError::Read { .. })), "{:?}", judged);
        }
    }
}
