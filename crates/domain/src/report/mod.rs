//! Reads what tools report: JUnit XML, SARIF 2.1.0, CycloneDX.
