//! `jobs`: what is held and what became of the others.

use node_store::jobs::Lease;
use node_types::job::{Job, Output};
use serde_json::Value;

use crate::home::{ANSWERED, EXPIRED, FAILED, FINISHED, Home, QUEUED, RUNNING, id, job, reading};

fn states(list: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    list["jobs"].as_array().unwrap().iter().map(|job| (text(&job["job"]), text(&job["state"]))).collect()
}

fn named(jobs: &[(u64, &str)]) -> Vec<(String, String)> {
    jobs.iter().map(|(number, state)| (id(*number).to_string(), (*state).to_owned())).collect()
}

#[test]
fn jobs_are_listed_in_the_order_in_which_they_were_taken() {
    let home = Home::filled();
    let list = home.json(["jobs", "list"]);
    let all = [(FINISHED, "finished"), (FAILED, "failed"), (RUNNING, "running"), (QUEUED, "queued")];
    assert_eq!(states(&list), named(&all));
    assert_eq!(
        (&list["held"]["queued"], &list["held"]["running"], &list["held"]["unsent"]),
        (&1.into(), &1.into(), &2.into())
    );
    assert_eq!(list["more"], false);
    let first = &list["jobs"][0];
    assert_eq!((&first["model"], &first["mode"]), (&"gemma-3-270m@1.0.0".into(), &"chat".into()));
    assert_eq!((&first["attempt"], &first["attempts_max"]), (&1.into(), &3.into()));
    let text = home.run(["jobs", "list"]).well().out;
    for (job, state) in named(&all) {
        assert!(text.lines().any(|line| line.contains(&job) && line.contains(&state)), "{text}");
    }
}

#[test]
fn a_list_can_be_cut_and_filtered() {
    let home = Home::filled();
    let cut = home.json(["jobs", "list", "--limit", "2"]);
    assert_eq!(states(&cut), named(&[(FINISHED, "finished"), (FAILED, "failed")]));
    assert_eq!(cut["more"], true);
    assert_eq!(home.json(["jobs", "list", "--limit", "4"])["more"], false);
    let queued = home.json(["jobs", "list", "--state", "queued"]);
    assert_eq!(states(&queued), named(&[(QUEUED, "queued")]));
    home.run(["jobs", "list", "--state", "qeued"]).failed(2, &["queued"]);
    home.run(["jobs", "list", "--limit", "0"]).failed(2, &["1 or more"]);
    home.run(["drift", "history", "--limit", "0"]).failed(2, &["1 or more"]);
}

/// An empty list looked like a node without such jobs.
#[test]
fn a_state_that_no_job_of_the_list_can_have_is_refused() {
    let home = Home::filled();
    for state in ["queued", "running", "finished"] {
        home.run(["jobs", "list", "--ended", "--state", state])
            .failed(2, &["--ended", &format!("--state {state}")]);
    }
    for state in ["answered", "expired"] {
        home.run(["jobs", "list", "--state", state])
            .failed(2, &[&format!("give --ended with --state {state}")]);
    }
    home.run(["jobs", "list", "--state", "failed"]).well();
    home.run(["jobs", "list", "--ended", "--state", "failed"]).well();
    assert_eq!(states(&home.json(["jobs", "list", "--ended", "--state", "expired"])).len(), 1);
}

#[test]
fn the_traces_of_ended_jobs_are_listed_when_asked_for() {
    let home = Home::filled();
    let ended = home.json(["jobs", "list", "--ended"]);
    let mut found = states(&ended);
    found.sort();
    assert_eq!(found, named(&[(ANSWERED, "answered"), (EXPIRED, "expired")]));
    assert!(ended["jobs"][0]["ended_at"].as_str().unwrap().ends_with('Z'));
    assert_eq!((&ended["jobs"][0]["attempts"], &ended["jobs"][1]["attempts"]), (&0.into(), &1.into()));
    let text = home.run(["jobs", "list", "--ended"]).well().out;
    assert!(text.lines().any(|line| line.contains("answered") && line.contains(" 1 ")), "{text}");
    // The newest comes first, and a cut takes it.
    assert_eq!(states(&ended), named(&[(EXPIRED, "expired"), (ANSWERED, "answered")]));
    let cut = home.json(["jobs", "list", "--ended", "--limit", "1"]);
    assert_eq!((states(&cut), &cut["more"]), (named(&[(EXPIRED, "expired")]), &true.into()));
}

#[test]
fn a_job_is_meant_by_the_first_digits_of_its_id() {
    let home = Home::filled();
    // All of the test's jobs have the same first 31 digits.
    let whole = id(RUNNING).to_string();
    home.run(["jobs", "show", &whole[..35]])
        .failed(2, &["several jobs begin with", &id(QUEUED).to_string(), "..."]);
    let store = node_store::store::Store::open(&home.options(), &reading()).unwrap();
    let now = reading().wall;
    let mut other = job(7, now);
    other.id = "abcd0000-0000-4000-8000-000000000000".parse().unwrap();
    store.jobs().accept(&other, now).wait().unwrap();
    drop(store);
    for meant in ["abcd", "ABCD-0000", "abcd0000-0000-4000-8000-000000000000"] {
        assert_eq!(home.json(["jobs", "show", meant])["job"], "abcd0000-0000-4000-8000-000000000000");
        assert_eq!(home.run(["logs", "--job", meant]).code, Some(0));
    }
    home.run(["jobs", "explain", "abce"]).failed(5, &["abce", "jobs list --ended"]);
    home.run(["jobs", "explain", "abc"]).failed(2, &["4 or more"]);
    home.run(["logs", "--job", "abce"]).failed(5, &["abce"]);
}

#[test]
fn a_job_is_shown_with_its_facts() {
    let home = Home::filled();
    let job = id(RUNNING).to_string();
    let shown = home.json(["jobs", "show", &job]);
    assert_eq!((&shown["state"], &shown["held"]), (&"running".into(), &true.into()));
    assert_eq!((&shown["attempts"], &shown["attempts_max"]), (&1.into(), &3.into()));
    let steps: Vec<&str> =
        shown["events"].as_array().unwrap().iter().map(|event| event["step"].as_str().unwrap()).collect();
    assert_eq!(steps, ["accepted", "leased"]);
    assert!(shown["events"][0]["at"].as_str().unwrap().ends_with('Z'));
    home.run(["jobs", "show", &job]).well().says(&[&job, "running", "gemma-3-270m@1.0.0", "1 of 3"]);
}

#[test]
fn a_story_is_told_in_order_to_its_end() {
    let home = Home::filled();
    let told = |number: u64| home.run(["jobs", "explain", &id(number).to_string()]).well();
    let text = told(ANSWERED)
        .says(&["it came from the network", "run 1 began", "its answer was sent to the network"])
        .says(&[
            "run 1 took 1.5 s: 5 prompt tokens read, 7 written (4.6 tokens/s)",
            "under snapshot 1 (sha256:",
        ])
        .says(&["acknowledged it 100 ms later; its prompt and answer were deleted"])
        .says(&["It has ended: the network has its answer."])
        .out;
    let place = |word: &str| text.find(word).unwrap();
    assert!(place("it came") < place("run 1 began") && place("run 1 began") < place("run 1 took"), "{text}");
    assert!(!text.contains("next   "), "one that went well needs no advice: {text}");
    told(QUEUED).says(&["Now it waits for the runtime; 3 attempts left."]);
    told(RUNNING).says(&[
        "Now no Agent runs: at the next start it begins anew, and 2 attempts left",
        "In the log:",
        "it runs",
    ]);
    told(FINISHED).says(&["its answer waits for the network's acknowledgement"]);
    let failed = id(FAILED).to_string();
    told(FAILED)
        .says(&["the runtime answered with an error", "its failure waits"])
        .says(&[&format!("`resultity-node logs --job {failed}`"), "doctor"]);
    told(EXPIRED).says(&[
        "its time ended while it was queued",
        "the network is still to be told",
        "logs --kind runtime",
    ]);
    let json = home.json(["jobs", "explain", &id(EXPIRED).to_string()]);
    assert_eq!((&json["state"], &json["reported"]), (&"expired".into(), &false.into()));
    assert!(json["story"].as_array().unwrap().len() > 3);
    let steps = home.json(["jobs", "explain", &id(ANSWERED).to_string()])["events"].clone();
    assert_eq!((&steps[0]["after_ms"], &steps[4]["after_ms"]), (&Value::Null, &100.into()));
    assert!(steps[2]["text"].as_str().unwrap().contains("4.6 tokens/s"), "{steps}");
}

/// What it says of "when" can be laid beside the log of another machine.
#[test]
fn a_story_says_when_each_step_was() {
    let home = Home::new();
    let store = home.fill();
    let at = reading().wall.plus_ms(60_000);
    let jobs = store.jobs();
    let told = Job { priority: 9, ..job(7, at) };
    jobs.accept(&told, at).wait().unwrap();
    let leased = jobs.lease(None, None, &[].into(), at.plus_ms(250)).wait().unwrap();
    assert!(matches!(leased, Lease::Job(leased) if leased.job.id == told.id));
    let answer = Output { body: String::new(), prompt_tokens: 1, completion_tokens: 2 };
    jobs.finish(told.id, answer, at.plus_ms(1750)).wait().unwrap();
    let whole = told.id.to_string();
    let text = home.run(["jobs", "explain", &whole]).well().out;
    let steps = home.json(["jobs", "explain", &whole])["events"].clone();
    for (step, (after_ms, gap, words)) in [
        (0, "", "it came from the network"),
        (250, "+250 ms", "it had waited 250 ms; run 1 began"),
        (1750, "+1.5 s", "run 1 took 1.5 s"),
    ]
    .into_iter()
    .enumerate()
    {
        let when = at.plus_ms(after_ms).to_string();
        assert!(when.starts_with("20") && when.ends_with('Z'), "{when}");
        assert_eq!(steps[step]["at"], when.as_str(), "{steps:#}");
        let line = format!("  {when}  {gap:>13}  {words}");
        assert!(text.lines().any(|said| said.starts_with(&line)), "{line:?} is not in:\n{text}");
    }
    let ends = told.expires_at.to_string();
    assert!(text.contains(&format!("Its time ends {ends} (in ")), "{text}");
}

#[test]
fn a_job_that_is_not_known_is_its_own_exit_code() {
    let home = Home::filled();
    let job = id(99).to_string();
    for command in ["show", "explain"] {
        home.run(["jobs", command, &job]).failed(5, &[&job, "jobs list"]);
        let said = home.run(["jobs", command, &job, "--json"]).failed(5, &[]);
        let error: Value = serde_json::from_str(&said.err).unwrap();
        assert_eq!(error["error"]["code"], 5);
        assert!(error["error"]["message"].as_str().unwrap().contains(&job));
    }
    home.run(["jobs", "show", "not-an-id"]).failed(2, &["UUID"]);
}
