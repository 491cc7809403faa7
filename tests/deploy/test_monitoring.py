"""What Grafana is given. Its metrics' names are checked in test_compose_commands.py."""

import json
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from tests.deploy.compose_project import REPOSITORY, services

FOLDER = REPOSITORY / "deploy" / "monitoring"


def dashboard() -> dict[str, Any]:
    file = FOLDER / "grafana" / "dashboards" / "counterhint.json"
    loaded: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return loaded


def test_panels_ask_the_data_source_that_is_provided() -> None:
    provided = yaml.safe_load(
        (FOLDER / "grafana" / "provisioning" / "datasources" / "prometheus.yaml").read_text()
    )["datasources"]
    assert [source["url"] for source in provided] == ["http://prometheus:9090"]
    panels = [panel for panel in dashboard()["panels"] if panel["type"] != "row"]
    assert {panel["datasource"]["uid"] for panel in panels} == {provided[0]["uid"]}
    assert all(panel["targets"] for panel in panels)


def test_panels_do_not_overlap() -> None:
    cells = [
        (x, y)
        for panel in dashboard()["panels"]
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in dashboard()["panels"]}) == len(dashboard()["panels"])


def test_the_dashboard_is_where_grafana_is_told_to_look() -> None:
    grafana = services(None, {})["grafana"]
    mounts = dict(volume.split(":")[:2] for volume in grafana["volumes"])
    (source,) = (source for source, target in mounts.items() if target == "/etc/grafana/dashboards")
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (REPOSITORY / source / home.removeprefix("/etc/grafana/dashboards/")).is_file()
    provider = FOLDER / "grafana" / "provisioning" / "dashboards" / "counterhint.yaml"
    (told,) = yaml.safe_load(provider.read_text())["providers"]
    assert told["options"]["path"] == "/etc/grafana/dashboards"


def test_prometheus_asks_every_service_that_has_metrics() -> None:
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    asked = {
        target
        for job in config["scrape_configs"]
        for targets in job["static_configs"]
        for target in targets["targets"]
    }
    serving = {
        f"{name}:9464"
        for name, service in services("gpu", {}).items()
        if "--metrics-listen=0.0.0.0:9464" in service.get("command", [])
    }
    assert asked == serving


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_finds_nothing() -> None:
    subprocess.run(["promtool", "check", "config", FOLDER / "prometheus.yml"], check=True)
