"""What this release is called; shown by /api/version and at the top of the shop's page."""

EDITION = "First Flush"
