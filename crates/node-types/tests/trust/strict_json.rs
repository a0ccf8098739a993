use node_types::{
    config::NodeConfig,
    envelope::Envelope,
    json::{DEPTH_MAX, JsonError, parse_strict},
    keyset::Keyset,
};
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::Value;

fn read(text: &str) -> Result<Value, JsonError> {
    parse_strict(text.as_bytes(), 1 << 20)
}

#[test]
fn plain_json_is_read_as_any_reader_reads_it() {
    let text = r#" {"a":[1,-2,0.5,1e3,true,null,"x\u00e9"],"b":{"a":{}}} "#;
    assert_eq!(read(text), Ok(serde_json::from_str(text).unwrap()));
}

#[test]
fn a_key_may_stand_once_and_the_second_one_is_named() {
    let twice = |path: &str| Err(JsonError::DuplicateKey { path: path.to_owned() });
    assert_eq!(read(r#"{"a":1,"a":1}"#), twice("a"));
    assert_eq!(read(r#"{"a":1,"\u0061":2}"#), twice("a"));
    assert_eq!(read(r#"{"x":[{},{"a":{"b":1,"c":2,"b":1}}]}"#), twice("x[1].a.b"));
    assert_eq!(read(r#"[{"a":1},{"a":1}]"#).map(|_| ()), Ok(()));
}

#[test]
fn integers_end_at_two_to_the_53_minus_1() {
    for fits in ["9007199254740991", "-9007199254740991", "9007199254740991.0", "1e15", "0.1"] {
        assert!(read(&format!(r#"{{"n":{fits}}}"#)).is_ok(), "{fits}");
    }
    for beyond in [
        "9007199254740992",
        "-9007199254740992",
        "18446744073709551615",
        "18446744073709551616",
        "9007199254740992.0",
        "-1e16",
        "1e300",
    ] {
        let found = read(&format!(r#"{{"a":[0,{{"n":{beyond}}}]}}"#));
        assert_eq!(found, Err(JsonError::NumberTooLarge { path: "a[1].n".to_owned() }), "{beyond}");
    }
}

#[test]
fn nesting_ends_at_its_limit() {
    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    assert!(read(&nested(DEPTH_MAX)).is_ok());
    assert!(matches!(read(&nested(DEPTH_MAX + 1)), Err(JsonError::TooDeep { .. })));
    // Far beyond any stack.
    assert!(matches!(read(&nested(100_000)), Err(JsonError::TooDeep { .. })));
}

#[test]
fn size_is_judged_before_anything_else() {
    assert_eq!(parse_strict::<Value>(b"\xff\xff\xff\xff", 3), Err(JsonError::TooLarge { found: 4, max: 3 }));
    assert!(parse_strict::<Value>(b"[1]", 3).is_ok());
}

#[test]
fn what_is_not_one_document_in_utf_8_is_refused() {
    assert_eq!(parse_strict::<Value>(b"[\"\xff\"]", 99), Err(JsonError::NotUtf8 { valid_up_to: 2 }));
    for text in ["", " ", "[1] x", "[1][2]", "{} {}", "[1,]", "{\"a\"}", "NaN", "\u{feff}{}", r#""\ud800""#] {
        assert!(matches!(read(text), Err(JsonError::Malformed { .. })), "{text:?}");
    }
}

#[test]
fn a_wrong_shape_names_the_field_and_stays_short() {
    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Shape {
        #[expect(dead_code, reason = "only its being read is of interest")]
        a: u8,
    }
    let reason = |text: &str| match parse_strict::<Shape>(text.as_bytes(), 1 << 20) {
        Err(JsonError::Shape { reason }) => reason,
        other => panic!("{other:?}"),
    };
    assert!(reason(r#"{"a":1,"balance":2}"#).contains("balance"));
    assert!(reason("{}").contains('a'));
    let hostile = reason(&format!("{{\"\\u001b[31m{}\":1}}", "x".repeat(100_000)));
    assert!(hostile.len() < 600 && !hostile.contains('\u{1b}'), "{hostile}");
}

/// Text around a hole: arrays and objects, with neighbours.
fn wrapped(levels: Vec<u8>, inner: String) -> String {
    levels.into_iter().fold(inner, |inner, level| match level % 4 {
        0 => format!("[{inner}]"),
        1 => format!(r#"{{"a":{inner}}}"#),
        2 => format!(r#"[{{"k":1}},{inner},{{"k":2}}]"#),
        _ => format!(r#"{{"k":[],"j":{inner},"l":{{"k":1}}}}"#),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_duplicate_key_at_any_depth_is_refused(
        levels in prop::collection::vec(any::<u8>(), 0..DEPTH_MAX - 1),
        key in "[a-z\u{e9}]{0,6}",
        between in 0_usize..4,
        same_value in any::<bool>(),
    ) {
        let others: String = (0..between).map(|index| format!(r#""other{index}":{{}},"#)).collect();
        let second = if same_value { 1 } else { 2 };
        let once = wrapped(levels.clone(), format!(r#"{{"{key}":1,{others}"Z":{second}}}"#));
        let twice = wrapped(levels, format!(r#"{{"{key}":1,{others}"{key}":{second}}}"#));
        prop_assert!(read(&once).is_ok());
        let refused = matches!(read(&twice), Err(JsonError::DuplicateKey { .. }));
        prop_assert!(refused, "{}", twice);
    }

    #[test]
    fn bytes_of_any_kind_are_read_or_refused_and_nothing_else(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse_strict::<Value>(&bytes, 200);
        let _ = Envelope::parse(&bytes);
        let _ = Keyset::parse(&bytes);
        let _ = NodeConfig::parse(&bytes);
    }

    #[test]
    fn text_made_of_the_tokens_of_json_is_read_or_refused(text in r#"([\[\]{},:]|"a"|"\\u00|[0-9eE.+-]{1,3}|null){0,60}"#) {
        // Whatever is taken, the plain reader takes too, with the same meaning.
        if let Ok(value) = read(&text) {
            prop_assert_eq!(value, serde_json::from_str::<Value>(&text).unwrap());
        }
    }
}
