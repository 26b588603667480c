//! Logs as ruff, CodeQL and Trivy write them, and logs that say nothing.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// A log with one run of a tool with `rules` and `results`.
fn log(rules: Value, results: Value) -> Value {
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{ "tool": { "driver": { "name": "scanner", "rules": rules } }, "results": results }]
    })
}

fn read_value(log: &Value) -> Result<FindingSummary, ReportError> {
    read(&log.to_string())
}

/// `[low, medium, high, critical]`.
fn counts(log: &Value) -> [u32; 4] {
    let summary = read_value(log).unwrap();
    [summary.low, summary.medium, summary.high, summary.critical]
}

fn scored(score: Value) -> Value {
    log(
        json!([{ "id": "CVE-1", "properties": { "security-severity": score } }]),
        json!([{ "ruleId": "CVE-1", "level": "note", "message": { "text": "old openssl" } }]),
    )
}

#[test]
fn levels_weigh_high_medium_and_low_and_the_worst_comes_first() {
    let place = |line: u64| json!([{ "physicalLocation": { "artifactLocation": { "uri": "main.py" }, "region": { "startLine": line } } }]);
    let log = log(
        json!([]),
        json!([
            { "ruleId": "F401", "level": "note", "message": { "text": "unused import" }, "locations": place(1) },
            { "ruleId": "S608", "level": "error", "message": { "text": "SQL from strings\nmore" }, "locations": place(7) },
            { "ruleId": "E501", "message": { "text": "line too long" } },
        ]),
    );
    assert_eq!(counts(&log), [1, 1, 1, 0]);
    assert_eq!(
        read_value(&log).unwrap().worst,
        [
            "main.py:7: S608: SQL from strings",
            "(no file): E501: line too long",
            "main.py:1: F401: unused import",
        ]
    );
}

#[test]
fn a_security_score_outweighs_the_level() {
    assert_eq!(counts(&scored(json!("9.8"))), [0, 0, 0, 1]);
    assert_eq!(counts(&scored(json!("9.0"))), [0, 0, 0, 1]);
    assert_eq!(counts(&scored(json!(7))), [0, 0, 1, 0]);
    assert_eq!(counts(&scored(json!("4.0"))), [0, 1, 0, 0]);
    assert_eq!(counts(&scored(json!("3.9"))), [1, 0, 0, 0]);
    for nonsense in [json!("NaN"), json!("11"), json!("high"), json!(null)] {
        assert_eq!(counts(&scored(nonsense)), [1, 0, 0, 0]);
    }
}

#[test]
fn a_rule_is_found_by_index_by_parent_and_in_an_extension() {
    let severe = json!({ "security-severity": "9.1" });
    let by_index = log(
        json!([{ "id": "a" }, { "id": "b", "properties": severe }]),
        json!([{ "ruleIndex": 1, "message": { "text": "x" } }]),
    );
    assert_eq!(counts(&by_index), [0, 0, 0, 1]);
    let by_parent = log(
        json!([{ "id": "b", "properties": severe }]),
        json!([{ "ruleId": "b/1", "message": { "text": "x" } }]),
    );
    assert_eq!(counts(&by_parent), [0, 0, 0, 1]);
    let mut extended = log(
        json!([]),
        json!([{ "rule": { "id": "b", "index": 0, "toolComponent": { "index": 0 } }, "message": { "text": "x" } }]),
    );
    extended["runs"][0]["tool"]["extensions"] =
        json!([{ "name": "pack", "rules": [{ "id": "b", "properties": severe }] }]);
    assert_eq!(counts(&extended), [0, 0, 0, 1]);
}

#[test]
fn the_level_of_the_rule_holds_where_the_result_names_none() {
    let log = log(
        json!([{ "id": "r", "defaultConfiguration": { "level": "error" } }]),
        json!([{ "ruleId": "r", "message": { "text": "x" } }]),
    );
    assert_eq!(counts(&log), [0, 0, 1, 0]);
}

#[test]
fn suppressed_passed_and_gone_results_do_not_count() {
    let with = |extra: Value| {
        let mut result = json!({ "ruleId": "r", "level": "error", "message": { "text": "x" } });
        result.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        log(json!([]), json!([result]))
    };
    let clean = [0, 0, 0, 0];
    assert_eq!(counts(&with(json!({ "suppressions": [{ "kind": "inSource" }] }))), clean);
    assert_eq!(
        counts(&with(json!({ "suppressions": [{ "kind": "external", "status": "accepted" }] }))),
        clean
    );
    assert_eq!(counts(&with(json!({ "kind": "pass", "level": "none" }))), clean);
    assert_eq!(counts(&with(json!({ "baselineState": "absent" }))), clean);
    assert_eq!(counts(&with(json!({ "suppressions": [] }))), [0, 0, 1, 0]);
    assert_eq!(
        counts(&with(json!({ "suppressions": [{ "kind": "external", "status": "underReview" }] }))),
        [0, 0, 1, 0]
    );
}

#[test]
fn a_tool_that_says_it_failed_is_not_clean() {
    let mut log = log(json!([]), json!([]));
    log["runs"][0]["invocations"] = json!([
        { "executionSuccessful": true },
        { "executionSuccessful": false, "exitCode": 3,
          "toolExecutionNotifications": [{ "message": { "text": "cannot download the database" } }] }
    ]);
    let error = read_value(&log).unwrap_err();
    assert_eq!(
        error.to_string(),
        "scanner says that it failed: cannot download the database; its findings are not known"
    );
    log["runs"][0]["invocations"] = json!([{ "executionSuccessful": false, "exitCode": 3 }]);
    assert!(read_value(&log).unwrap_err().to_string().contains("exit code 3"));
}

#[test]
fn a_log_without_results_is_not_clean_unless_the_tool_says_that_it_succeeded() {
    let mut log = log(json!([]), Value::Null);
    assert!(matches!(read_value(&log), Err(ReportError::ToolFailed { .. })));
    log["runs"][0]["invocations"] = json!([{ "executionSuccessful": true }]);
    assert_eq!(counts(&log), [0, 0, 0, 0]);
    for runs in [json!([]), Value::Null] {
        let empty = json!({ "version": "2.1.0", "runs": runs });
        assert!(matches!(read_value(&empty), Err(ReportError::Unsupported { .. })));
    }
}

#[test]
fn another_version_or_results_elsewhere_are_refused() {
    let mut old = log(json!([]), json!([]));
    old["version"] = json!("1.0.0");
    assert!(read_value(&old).unwrap_err().to_string().contains("write version 2.1.0"));
    let mut elsewhere = log(json!([]), json!([]));
    elsewhere["runs"][0]["externalPropertyFileReferences"] =
        json!({ "results": [{ "location": { "uri": "more.sarif-external-properties" } }] });
    assert!(matches!(read_value(&elsewhere), Err(ReportError::Unsupported { .. })));
}

#[test]
fn a_log_that_was_cut_off_says_where() {
    let error = read("{\n  \"version\": \"2.1.0\",\n").unwrap_err();
    assert!(matches!(error, ReportError::Malformed { line: 3, .. }), "{error}");
    for text in ["", "[]", "null", "{}"] {
        assert!(matches!(read(text), Err(ReportError::Malformed { .. })), "{text} was read");
    }
}

#[test]
fn a_message_is_taken_from_the_rule_and_cannot_be_grown_by_its_arguments() {
    let log = log(
        json!([{ "id": "r", "messageStrings": { "m": { "text": "{0} calls {1} {x" } } }]),
        json!([{ "ruleId": "r", "message": { "id": "m", "arguments": ["{1}{1}", "g"] } }]),
    );
    assert_eq!(read_value(&log).unwrap().worst, ["(no file): r: {1}{1} calls g {x"]);
}

proptest! {
    #[test]
    fn no_mutated_log_makes_the_reader_panic(
        at in any::<prop::sample::Index>(),
        length in 0..12_usize,
        new in "[{}\\[\\]:,\"a-z0-9é-]{0,6}",
    ) {
        let text = scored(json!("9.8")).to_string();
        let mut chars: Vec<char> = text.chars().collect();
        let start = at.index(chars.len());
        let end = (start + length).min(chars.len());
        chars.splice(start..end, new.chars());
        let _ = read(&chars.into_iter().collect::<String>());
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in ".{0,200}") {
        let _ = read(&text);
    }
}

#[test]
fn what_a_tool_quotes_of_a_file_is_taken_out_and_its_findings_stay() {
    let text = r#"{"version":"2.1.0","runs":[{"tool":{"driver":{"name":"leaks"}},
        "artifacts":[{"contents":{"text":"token=hunter2"}}],
        "results":[{"ruleId":"token","message":{"text":"a token"},"locations":[{"physicalLocation":
        {"artifactLocation":{"uri":"a.ini"},"region":{"startLine":3,"snippet":{"text":"token=hunter2"}},
        "contextRegion":{"snippet":{"text":"x\ntoken=hunter2"}}}}]}]}]}"#;
    let kept = without_quotes(text).unwrap();
    assert!(!kept.contains("hunter2"), "{kept}");
    assert_eq!(read(&kept).unwrap(), read(text).unwrap());
    assert_eq!(read(&kept).unwrap().worst, ["a.ini:3: token: a token"]);
}
