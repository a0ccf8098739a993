use node_types::{
    Digest,
    inventory::{
        ArtifactKind,
        ArtifactState::{self, Drifted, Missing, Outdated, Unlisted, Unverified},
        Facts, Measured, judge,
    },
    models::ModelState,
};

/// Every combination: expected and recorded are unknown (`-`) or one of three digests, measured
/// moreover absent (`0`). Three digests are enough, since three values can differ in three ways.
const TABLE: &str = "
    --- Unverified   --0 Ok           --A Unlisted     --B Unlisted     --C Unlisted
    -A- Unverified   -A0 Missing      -AA Unlisted     -AB Drifted      -AC Drifted
    -B- Unverified   -B0 Missing      -BA Drifted      -BB Unlisted     -BC Drifted
    -C- Unverified   -C0 Missing      -CA Drifted      -CB Drifted      -CC Unlisted
    A-- Unverified   A-0 Missing      A-A Ok           A-B Drifted      A-C Drifted
    AA- Unverified   AA0 Missing      AAA Ok           AAB Drifted      AAC Drifted
    AB- Unverified   AB0 Missing      ABA Ok           ABB Outdated     ABC Drifted
    AC- Unverified   AC0 Missing      ACA Ok           ACB Drifted      ACC Outdated
    B-- Unverified   B-0 Missing      B-A Drifted      B-B Ok           B-C Drifted
    BA- Unverified   BA0 Missing      BAA Outdated     BAB Ok           BAC Drifted
    BB- Unverified   BB0 Missing      BBA Drifted      BBB Ok           BBC Drifted
    BC- Unverified   BC0 Missing      BCA Drifted      BCB Ok           BCC Outdated
    C-- Unverified   C-0 Missing      C-A Drifted      C-B Drifted      C-C Ok
    CA- Unverified   CA0 Missing      CAA Outdated     CAB Drifted      CAC Ok
    CB- Unverified   CB0 Missing      CBA Drifted      CBB Outdated     CBC Ok
    CC- Unverified   CC0 Missing      CCA Drifted      CCB Drifted      CCC Ok
";

fn digest(letter: char) -> Option<Digest> {
    (letter != '-').then(|| Digest::of(letter.to_string().as_bytes()))
}

fn measured(letter: char) -> Option<Measured> {
    if letter == '0' { Some(Measured::Absent) } else { digest(letter).map(Measured::Present) }
}

fn state(name: &str) -> ArtifactState {
    match name {
        "Ok" => ArtifactState::Ok,
        "Drifted" => Drifted,
        "Outdated" => Outdated,
        "Missing" => Missing,
        "Unlisted" => Unlisted,
        "Unverified" => Unverified,
        other => unreachable!("{other} is no state"),
    }
}

#[test]
fn every_combination_is_judged_as_the_table_says() {
    let words: Vec<&str> = TABLE.split_whitespace().collect();
    let mut rows = std::collections::BTreeMap::new();
    for row in words.chunks_exact(2) {
        assert!(rows.insert(row[0].to_owned(), state(row[1])).is_none(), "{} stands twice", row[0]);
    }
    for expected in "-ABC".chars() {
        for recorded in "-ABC".chars() {
            for found in "-0ABC".chars() {
                let facts = Facts {
                    expected: digest(expected),
                    recorded: digest(recorded),
                    measured: measured(found),
                };
                let case: String = [expected, recorded, found].iter().collect();
                assert_eq!(Some(judge(&facts)), rows.remove(&case), "{case}");
            }
        }
    }
    assert!(rows.is_empty(), "{rows:?} are no combinations");
}

#[test]
fn kinds_and_states_are_written_as_they_are_serialized() {
    for kind in ArtifactKind::ALL {
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        assert_eq!(kind.name().parse(), Ok(kind));
    }
    for state in ModelState::ALL {
        assert_eq!(serde_json::to_value(state).unwrap(), state.name());
        assert_eq!(state.to_string(), state.name());
    }
    for state in ArtifactState::ALL {
        assert_eq!(serde_json::to_value(state).unwrap(), state.name());
    }
}
