//! Reports as the tools write them, and reports that are broken.

use proptest::prelude::*;

use super::*;

const PYTEST: &str = r#"<?xml version="1.0" encoding="utf-8"?>
<testsuites name="pytest tests"><testsuite name="pytest" errors="1" failures="1" skipped="1" tests="4" time="0.041" hostname="h">
<testcase classname="tests.test_shop" name="test_search" time="0.001" />
<testcase classname="tests.test_shop" name="test_order[green &amp; white]" time="0.002"><failure message="AssertionError: assert 1 == 2&#10;  + where 1 = len()">def test_order():
&gt;       assert 1 == 2</failure></testcase>
<testcase classname="tests.test_shop" name="test_later" time="0.000"><skipped type="pytest.skip" message="no redis">x</skipped></testcase>
<testcase classname="" name="tests.test_broken" time="0.000"><error message="collection failure">ImportError: no module named tea</error></testcase>
</testsuite></testsuites>"#;

const VITEST: &str = r#"<?xml version="1.0" encoding="UTF-8" ?>
<testsuites name="vitest tests" tests="2" failures="1" errors="0" time="0.3">
    <testsuite name="src/list.test.ts" tests="2" failures="1" errors="0" skipped="0">
        <testcase classname="src/list.test.ts" name="list &gt; shows teas" time="0.01">
            <system-out>
<![CDATA[rendered <ul>]]>
            </system-out>
        </testcase>
        <testcase classname="src/list.test.ts" name="list &gt; filters" time="0.01">
            <failure message="expected 3 to be 2 // Object.is equality" type="AssertionError">
AssertionError: expected 3 to be 2
            </failure>
        </testcase>
    </testsuite>
</testsuites>"#;

const JEST: &str = "<?xml version=\"1.0\"?>
<testsuites name=\"jest tests\" tests=\"1\" failures=\"1\" errors=\"1\">
  <testsuite name=\"cart\" errors=\"0\" failures=\"1\" tests=\"1\">
    <testcase classname=\"cart adds\" name=\"cart adds\"><failure>\u{1b}[31mError: expected 1\u{1b}[39m
    at Object.toBe</failure></testcase>
  </testsuite>
  <testsuite name=\"login\" errors=\"1\" failures=\"0\" tests=\"0\"/>
</testsuites>";

const SUREFIRE: &str = r#"<testsuite xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" name="shop.OrderTest" tests="3" errors="1" skipped="1" failures="0">
  <properties><property name="java.version" value="21"/></properties>
  <testcase name="orders" classname="shop.OrderTest"><flakyFailure message="late">x</flakyFailure></testcase>
  <testcase name="pays" classname="shop.OrderTest"><error message="null" type="java.lang.NullPointerException"><![CDATA[java.lang.NullPointerException
 at shop]]></error><rerunFailure message="again">y</rerunFailure><system-err>z</system-err></testcase>
  <testcase name="ships" classname="shop.OrderTest"><skipped/></testcase>
</testsuite>"#;

const NODE: &str = r#"<testsuites>
	<testcase name="alone" time="0.001" classname="test"/>
	<testsuite name="outer" tests="2" failures="1">
		<testsuite name="inner" tests="1" failures="1">
			<testcase name="deep" classname="test" failure="x"><failure type="testCodeFailure" message="not equal">[Error]</failure></testcase>
		</testsuite>
		<testcase name="fine" classname="test"/>
	</testsuite>
</testsuites>"#;

fn counts(text: &str) -> (u32, u32, u32) {
    let summary = read(text).unwrap();
    (summary.passed, summary.failed, summary.skipped)
}

#[test]
fn pytest_is_read_and_an_error_counts_as_a_failure() {
    assert_eq!(counts(PYTEST), (1, 2, 1));
    assert_eq!(
        read(PYTEST).unwrap().failures,
        [
            "tests.test_shop::test_order[green & white]: AssertionError: assert 1 == 2",
            "pytest::tests.test_broken: collection failure",
        ]
    );
}

#[test]
fn vitest_jest_surefire_and_node_are_read() {
    assert_eq!(counts(VITEST), (1, 1, 0));
    assert_eq!(counts(SUREFIRE), (1, 1, 1));
    assert_eq!(read(SUREFIRE).unwrap().failures, ["shop.OrderTest::pays: null"]);
    assert_eq!(counts(NODE), (2, 1, 0));
}

#[test]
fn a_file_that_could_not_be_loaded_has_no_test_case_but_counts_as_failed() {
    assert_eq!(counts(JEST), (0, 2, 0));
    assert_eq!(
        read(JEST).unwrap().failures,
        ["cart adds: Error: expected 1", "login: 1 failure that no test case tells about"]
    );
}

#[test]
fn a_report_with_no_tests_is_zero_of_everything() {
    assert_eq!(read("<testsuites/>").unwrap(), TestSummary::default());
    assert_eq!(
        read("\u{feff}<testsuite tests='0'></testsuite>\n").unwrap(),
        TestSummary::default()
    );
}

#[test]
fn a_report_that_was_cut_off_says_where() {
    let error = read("<testsuites>\n  <testsuite>\n").unwrap_err();
    assert!(matches!(error, ReportError::Malformed { line: 2, column: 3, .. }), "{error}");
    let error = read("<testsuites>\n<testsuite></testsuites>").unwrap_err();
    assert!(matches!(error, ReportError::Malformed { line: 2, .. }), "{error}");
    for text in [
        "",
        "  \n",
        "ok",
        "<testsuite/><testsuite/>",
        "<testsuite/>more",
        "<testsuite a='1' a='2'/>",
    ] {
        assert!(matches!(read(text), Err(ReportError::Malformed { .. })), "{text} was read");
    }
}

#[test]
fn entities_and_other_documents_are_refused() {
    let bomb = r#"<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><testsuite name="&b;"/>"#;
    assert!(matches!(read(bomb), Err(ReportError::Unsupported { .. })));
    let outside = r#"<!DOCTYPE x SYSTEM "file:///etc/passwd"><testsuite/>"#;
    assert!(matches!(read(outside), Err(ReportError::Unsupported { .. })));
    assert!(matches!(read("<html></html>"), Err(ReportError::Unsupported { .. })));
    for text in ["<testsuite name='&b;'/>", "<testsuite>&b;</testsuite>"] {
        assert!(matches!(read(text), Err(ReportError::Malformed { .. })), "{text} was read");
    }
    let deep = format!("<testsuite>{}", "<testsuite>".repeat(100_000));
    assert!(read(&deep).is_err());
}

#[test]
fn many_failures_are_all_counted_and_the_first_ones_kept() {
    let cases = "<testcase name='a'><failure message='no'/></testcase>".repeat(120);
    let summary = read(&format!("<testsuite name='s'>{cases}</testsuite>")).unwrap();
    assert_eq!((summary.failed, summary.failures.len()), (120, KEPT));
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in ".{0,400}") {
        let _ = read(&text);
    }

    #[test]
    fn no_mutated_report_makes_the_reader_panic(
        which in 0..5_usize,
        at in any::<prop::sample::Index>(),
        length in 0..12_usize,
        new in "[<>&;/='\"a-z!\\[\\]?-]{0,6}",
    ) {
        let mut chars: Vec<char> = [PYTEST, VITEST, JEST, SUREFIRE, NODE][which].chars().collect();
        let start = at.index(chars.len());
        let end = (start + length).min(chars.len());
        chars.splice(start..end, new.chars());
        let _ = read(&chars.into_iter().collect::<String>());
    }
}
