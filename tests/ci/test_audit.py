"""The audit's report: what was found, and what could not be looked at."""

import runpy
from pathlib import Path
from typing import Any

report = runpy.run_path(str(Path(__file__).parents[2] / ".ci" / "audit.py"))["report"]

SKIPPED = {"name": "a", "skip_reason": "not found: a (1.0)"}
CLEAN = {"name": "b", "version": "1.0", "vulns": []}
FOUND: dict[str, Any] = {
    "name": "c",
    "version": "2.0",
    "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2.1"]}],
}


def test_a_service_that_knows_nothing_is_not_taken_for_a_clean_bill() -> None:
    (line,) = report([SKIPPED, SKIPPED])
    assert "nothing was audited" in line
    assert "none of 2 packages (not found)" in line


def test_findings_are_named_with_their_remedy_and_counted() -> None:
    assert report([SKIPPED, CLEAN, FOUND]) == [
        "audit: c 2.0: PYSEC-1 CVE-1, fixed in 2.1",
        "audit: 1 of 2 packages have known vulnerabilities; 1 could not be audited",
    ]
