"""`compose.yaml` by its schema, and the rules that every service of it keeps."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from counterhint.command_line import parse_command
from deploy.cli import COMMANDS
from student_trainer.recipe import load_recipe
from teacher_server.cli import Serve
from tests.deploy.compose_project import (
    FILE,
    REPOSITORY,
    VARIABLE,
    content_of,
    read_variables,
    services,
)

EXAMPLE = REPOSITORY / ".env.example"
EVERY_SERVICE = services(None, {})
OURS = {name for name, service in EVERY_SERVICE.items() if "build" in service}
"""Services whose image is built here."""
PUBLISHED = {"services", "gateway", "prometheus", "grafana"}


def test_fits_the_compose_specification() -> None:
    subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", FILE],
        check=True,
    )


@pytest.mark.parametrize(
    "file",
    [FILE, *sorted((REPOSITORY / "deploy" / "monitoring").rglob("*.y*ml"))],
    ids=lambda file: file.name,
)
def test_yaml_is_well_kept(file: Path) -> None:
    rules = (
        "{extends: default, rules: {line-length: {max: 110}, document-start: disable, "
        "braces: {max-spaces-inside: 0}, truthy: {check-keys: false}}}"
    )
    subprocess.run([sys.executable, "-m", "yamllint", "--strict", "-d", rules, file], check=True)


def test_every_variable_is_documented_with_the_default_that_it_has() -> None:
    text = "\n".join(
        line for line in FILE.read_text().splitlines() if not line.lstrip().startswith("#")
    )
    used = {match["name"]: match["default"] for match in VARIABLE.finditer(text) if match["name"]}
    documented = read_variables(EXAMPLE)
    assert documented.pop("COMPOSE_PROFILES") == "gpu"
    assert documented == used
    assert "$" not in VARIABLE.sub("", text), "a variable in another form than ${NAME:-default}"


def test_the_variables_of_the_cpu_profile_are_known() -> None:
    given = read_variables(REPOSITORY / "deploy" / "cpu.env")
    assert given.pop("COMPOSE_PROFILES") == "cpu"
    assert given.keys() <= read_variables(EXAMPLE).keys()


@pytest.mark.parametrize("name", EVERY_SERVICE)
def test_every_service_is_confined(name: str) -> None:
    service = EVERY_SERVICE[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["user"] not in ("root", "0", "0:0")
    limits = service["deploy"]["resources"]["limits"]
    assert limits.keys() >= {"memory", "pids"}
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert "privileged" not in service
    assert not {"cap_add", "devices"} & service.keys()


@pytest.mark.parametrize("name", EVERY_SERVICE)
def test_only_what_people_reach_is_published_and_on_loopback(name: str) -> None:
    service = EVERY_SERVICE[name]
    assert ("ports" in service) == (name in PUBLISHED)
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    networks = content_of("networks", {})
    on = service.get("networks", [])
    assert ("outside" in on) == (name in PUBLISHED)
    assert all(networks[network].get("internal") for network in on if network != "outside")


@pytest.mark.parametrize("name", EVERY_SERVICE)
def test_servers_are_checked_and_waited_for(name: str) -> None:
    service = EVERY_SERVICE[name]
    ends_by_itself = service["command"][0] in ("train", "models") if "command" in service else False
    if not ends_by_itself:
        assert {"test", "start_period", "interval"} <= service["healthcheck"].keys()
    for dependency in service.get("depends_on", {}).values():
        assert dependency["condition"] in ("service_healthy", "service_completed_successfully")


@pytest.mark.parametrize("name", EVERY_SERVICE)
def test_secrets_are_named_before_they_are_used(name: str) -> None:
    service = EVERY_SERVICE[name]
    test = service.get("healthcheck", {}).get("test", [])
    words = [*service.get("command", []), *test, *map(str, service.get("environment", {}).values())]
    used = {
        file for word in words for file in re.findall(r"/run/secrets/([\w.-]+?)(?=['\")]|$)", word)
    }
    assert used == set(service.get("secrets", []))


@pytest.mark.parametrize("name", sorted(OURS))
def test_the_command_exists_and_takes_these_arguments(name: str, tmp_path: Path) -> None:
    """With the settings class that will parse them; nothing is started."""
    words = EVERY_SERVICE[name]["command"]
    (tmp_path / "queue.yaml").write_text("redis: redis://redis:6379/0\n")
    words = [
        word.replace("/run/secrets/queue.yaml", str(tmp_path / "queue.yaml")) for word in words
    ]
    length = 1 if words[0] == "train" else 2
    command = " ".join(words[:length])
    module, _, attribute = COMMANDS[command].target.partition(":")
    settings = getattr(importlib.import_module(module), attribute)
    parse_command(settings, f"counterhint {command}", words[length:])


def test_the_teacher_on_gpus_is_what_the_variables_say() -> None:
    variables = {"COUNTERHINT_TEACHER_GPUS": "0,1", "COUNTERHINT_TEACHER_GPU_COUNT": "2"}
    teacher = services("gpu", variables)["teacher"]
    parsed = parse_command(Serve, "counterhint teacher serve", teacher["command"][2:])
    assert isinstance(parsed, Serve)
    assert parsed.engine == "vllm"
    assert "tensor_parallel_size=2" in parsed.engine_arg
    (devices,) = teacher["deploy"]["resources"]["reservations"]["devices"]
    assert devices["device_ids"] == ["0,1"]


STUDENTS = [
    name for name in EVERY_SERVICE if EVERY_SERVICE[name].get("command", [""])[0] == "train"
]


@pytest.mark.parametrize("name", STUDENTS)
def test_students_train_by_recipes_that_are_there_each_with_its_own_token(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, recipe_file, *overrides = EVERY_SERVICE[name]["command"]
    monkeypatch.chdir(REPOSITORY)  # files that recipes name are relative to it
    recipe = load_recipe(Path(recipe_file), overrides, {})
    run = name.partition("-")[2]
    assert recipe.run_dir == Path("runs", run)
    assert recipe.scoring.token_file == Path("/run/secrets", f"{run}.token")
    assert recipe.resume


def test_no_two_containers_have_the_same_gpu_by_default() -> None:
    ids = [
        device
        for service in EVERY_SERVICE.values()
        for devices in service["deploy"]["resources"].get("reservations", {}).get("devices", [])
        for device in devices["device_ids"]
    ]
    assert sorted(ids) == ["0", "1", "2"]


def test_images_from_elsewhere_are_pinned_by_digest() -> None:
    for name in EVERY_SERVICE.keys() - OURS:
        assert re.search(r":[\w.-]+@sha256:[0-9a-f]{64}$", EVERY_SERVICE[name]["image"]), name
