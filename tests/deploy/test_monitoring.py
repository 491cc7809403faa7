"""What Prometheus and Grafana are given.

Prometheus runs in test_compose_commands.py. Grafana runs in no test, as it is in no package that
could be installed: all that it will read is checked here.
"""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.deploy.compose_project import REPOSITORY, services
from tests.deploy.dashboard import DASHBOARD, MONITORING, PANELS
from tests.programs import program

GRAFANA = services(None, {})["grafana"]
PROMETHEUS = services(None, {})["prometheus"]
SETTINGS = {
    ("security", "admin_password"),
    ("users", "allow_sign_up"),
    ("analytics", "reporting_enabled"),
    ("analytics", "check_for_updates"),
    ("analytics", "check_for_plugin_updates"),
    ("plugins", "preinstall_disabled"),
    ("dashboards", "default_home_dashboard_path"),
}
"""Sections and keys of Grafana's configuration that `compose.yaml` sets. Source: its
conf/defaults.ini, and its pkg/setting/setting_plugins.go for `preinstall_disabled`."""


def mounted(service: dict[str, Any], path: str) -> Path:
    """The file or folder of this repository that a container sees at a path."""
    binds: list[list[str]] = [
        volume.split(":")[:2] for volume in service["volumes"] if volume.startswith("./")
    ]
    for source, target in binds:
        if Path(path).is_relative_to(target):
            return REPOSITORY / source / Path(path).relative_to(target)
    raise AssertionError(f"{path} is in none of {binds}")


def provisioned(kind: str) -> dict[str, Any]:
    """The one file of a kind in the folder that Grafana's image reads at its start."""
    (file,) = mounted(GRAFANA, f"/etc/grafana/provisioning/{kind}").iterdir()
    content: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert content.pop("apiVersion") == 1
    return content


def test_the_data_source_is_the_prometheus_of_compose() -> None:
    content = provisioned("datasources")
    (source,) = content.pop("datasources")
    assert content == {}
    assert source.pop("url") == "http://prometheus:9090"
    assert "--web.listen-address=0.0.0.0:9090" in PROMETHEUS["command"]
    assert set(GRAFANA["networks"]) & set(PROMETHEUS["networks"])
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    assert source.pop("jsonData") == {"timeInterval": config["global"]["scrape_interval"]}
    assert source == {
        "name": "Prometheus",
        "uid": "prometheus",
        "type": "prometheus",
        "access": "proxy",
        "isDefault": True,
    }


def test_every_panel_and_query_asks_the_data_source_that_is_provided() -> None:
    (source,) = provisioned("datasources")["datasources"]
    reference = {"type": source["type"], "uid": source["uid"]}
    for panel in PANELS:
        assert panel["datasource"] == reference
        assert [target["datasource"] for target in panel["targets"]] == [reference] * len(
            panel["targets"]
        )
        letters = [target["refId"] for target in panel["targets"]]
        assert letters == sorted(set(letters)) != []


def test_the_dashboard_is_where_grafana_is_told_to_look() -> None:
    content = provisioned("dashboards")
    (provider,) = content.pop("providers")
    assert content == {}
    assert provider == {
        "name": "Counterhint",
        "type": "file",
        "disableDeletion": True,
        "allowUiUpdates": False,
        "options": {"path": "/etc/grafana/dashboards"},
    }
    home = mounted(GRAFANA, GRAFANA["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert [home] == list(mounted(GRAFANA, provider["options"]["path"]).iterdir())
    assert json.loads(home.read_text(encoding="utf-8")) == DASHBOARD


def test_panels_do_not_overlap() -> None:
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def lost(given: Any, known: Any, where: str = "") -> Iterator[str]:
    """The places where a document has what another does not have, or has it otherwise."""
    if isinstance(given, dict) and isinstance(known, dict):
        for key, value in given.items():
            yield from lost(value, known.get(key), f"{where}/{key}")
    elif isinstance(given, list) and isinstance(known, list) and len(given) == len(known):
        for index, (value, other) in enumerate(zip(given, known, strict=True)):
            yield from lost(value, other, f"{where}/{index}")
    elif given != known:
        yield where


def unknown_to_grafana(dashboard: dict[str, Any]) -> list[str]:
    """The places of a dashboard that Grafana's own types of dashboards and panels do not have."""
    return list(lost(dashboard, json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard)))))


def test_grafana_knows_every_field_of_the_dashboard() -> None:
    register_default_plugins()
    assert {panel["type"] for panel in PANELS} == {"stat", "timeseries"}
    assert unknown_to_grafana(DASHBOARD) == []
    changed = json.loads(json.dumps(DASHBOARD).replace('"legendFormat"', '"legend_format"'))
    assert "/panels/1/targets/0/legend_format" in unknown_to_grafana(changed)


def test_the_environment_of_grafana_names_its_settings() -> None:
    for variable, value in GRAFANA["environment"].items():
        name = variable.removesuffix("__FILE")  # the image's entry point reads it from that file
        named = re.fullmatch(r"GF_([A-Z]+)_([A-Z_]+)", name)
        assert named is not None
        section, key = named.groups()
        assert (section.lower(), key.lower()) in SETTINGS
        if name != variable:
            assert value.removeprefix("/run/secrets/") in GRAFANA["secrets"]


def test_grafana_starts_by_its_image_and_is_asked_for_its_health() -> None:
    assert not GRAFANA.keys() & {"command", "entrypoint", "working_dir"}
    assert GRAFANA["healthcheck"]["test"][-1] == "http://127.0.0.1:3000/api/health"
    assert [port.rpartition(":")[2] for port in GRAFANA["ports"]] == ["3000"]
    assert "grafana:/var/lib/grafana" in GRAFANA["volumes"]  # all that it writes


def test_prometheus_asks_every_service_that_has_metrics() -> None:
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
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


def test_promtool_finds_nothing() -> None:
    (config,) = (word for word in PROMETHEUS["command"] if word.startswith("--config.file="))
    file = mounted(PROMETHEUS, config.partition("=")[2])
    subprocess.run(
        [program("promtool"), "check", "config", "--lint=all", "--lint-fatal", file], check=True
    )
