"""Grafana's dashboard, as its file has it."""

import json
import re
from dataclasses import dataclass
from typing import Any

from tests.deploy.compose_project import REPOSITORY

MONITORING = REPOSITORY / "deploy" / "monitoring"
FILE = MONITORING / "grafana" / "dashboards" / "counterhint.json"
DASHBOARD: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


@dataclass(frozen=True)
class Query:
    """What a panel asks Prometheus for one of its lines.

    Attributes:
        panel: the panel's title.
        line: the query's letter in its panel.
        expression: PromQL with Grafana's variable `$__rate_interval`.
        labels: of the answer's series, that the legend names.
    """

    panel: str
    line: str
    expression: str
    labels: frozenset[str]


QUERIES = [
    Query(
        panel["title"],
        target["refId"],
        target["expr"],
        frozenset(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])),
    )
    for panel in PANELS
    for target in panel["targets"]
]
