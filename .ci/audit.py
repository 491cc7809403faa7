"""Known vulnerabilities of the installed packages, as a report: the build goes on whatever it says.

pip-audit itself says that none was found when the vulnerability service knows no package at all,
so what could not be audited is counted here.
"""

import json
import subprocess
import sys
from typing import Any

SECONDS = 120
"""For the whole audit."""
REQUEST_SECONDS = 10
"""For one question to the service."""


def report(dependencies: list[dict[str, Any]]) -> list[str]:
    """What pip-audit's JSON comes to, a line each."""
    audited = [package for package in dependencies if "skip_reason" not in package]
    skipped = [package for package in dependencies if "skip_reason" in package]
    if not audited:
        reasons = sorted({package["skip_reason"].split(":")[0] for package in skipped})
        return [
            f"audit: nothing was audited: the vulnerability service answered for none of "
            f"{len(skipped)} packages ({'; '.join(reasons[:3])})"
        ]
    lines = [
        f"audit: {package['name']} {package['version']}: {found['id']} "
        f"{' '.join(found['aliases'])}, fixed in {' '.join(found['fix_versions']) or 'no release'}"
        for package in audited
        for found in package["vulns"]
    ]
    vulnerable = sum(1 for package in audited if package["vulns"])
    return [
        *lines,
        f"audit: {vulnerable} of {len(audited)} packages have known vulnerabilities; "
        f"{len(skipped)} could not be audited",
    ]


def main() -> None:
    """Prints the report."""
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--skip-editable"]
    command += ["--progress-spinner", "off", "--timeout", str(REQUEST_SECONDS)]
    try:
        audit = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        print(f"audit: nothing was audited: no report within {SECONDS} s")
        return
    if not audit.stdout.strip():
        last = (audit.stderr.strip().splitlines() or ["it gave no reason"])[-1]
        print(f"audit: nothing was audited: pip-audit ended with {audit.returncode}: {last}")
        return
    print(*report(json.loads(audit.stdout)["dependencies"]), sep="\n")


if __name__ == "__main__":
    main()
