"""Writes `requirements/*.txt`: every version that goes into an image, with its hashes.

    python deploy/docker/lock_requirements.py            after a change of dependencies; two minutes
    python deploy/docker/lock_requirements.py --upgrade  newer versions of all that is in them
    python deploy/docker/lock_requirements.py --check    do they fit pyproject.toml? (no network)

Versions that fit stay as they are. torch and its CUDA are never in them: images get both from their
base, or as the build of choice. What vLLM's image brings is left out of what is added to it. Needs
pip-tools, and the Python release of the images without a GPU (3.11).
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
FOLDER = Path(__file__).with_name("requirements")
IN_VLLM_IMAGE = FOLDER / "vllm-image.txt"
"""Names of packages that vLLM's image has, as far as ours need them; one a line."""

EXTRAS: Mapping[str, Sequence[str]] = {
    "services": ("services", "tracing"),
    "cpu": ("teacher", "student", "tracing"),
    "teacher": ("teacher", "tracing"),
    "student": ("student-vllm", "tracing"),
}
"""The extras of `pyproject.toml` that each image holds."""
TORCH = "torch==2.13.0"
"""What the others are resolved with."""
WITH_TORCH = re.compile(r"torch|triton|(cuda|nvidia)-.+")
"""Names that belong to a build of torch."""
ON_VLLM_IMAGE = ("teacher", "student")
"""Images that are built on vLLM's."""
BUILD = "build"
"""What makes our wheel, and (setuptools) those of packages that come as source only."""
LOCKS = (*EXTRAS, BUILD)


def requirements_of(lock: str) -> list[str]:
    """What a lock has to hold, as `pyproject.toml` says it, with extras of our own written out."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))
    if lock == BUILD:
        return sorted([*project["build-system"]["requires"], "setuptools"])
    extras: Mapping[str, Sequence[str]] = project["project"]["optional-dependencies"]

    def expanded(requirements: Sequence[str]) -> Iterator[str]:
        for text in requirements:
            requirement = Requirement(text)
            if requirement.name == project["project"]["name"]:
                for extra in requirement.extras:
                    yield from expanded(extras[extra])
            elif requirement.name != "vllm":  # the base of the image
                yield str(requirement)

    wanted = [text for extra in EXTRAS[lock] for text in expanded(extras[extra])]
    torch = [] if lock == "services" else [TORCH]
    return sorted({*project["project"]["dependencies"], *wanted, *torch})


def in_vllm_image(lock: str) -> frozenset[str]:
    """Names that a lock does not hold because its image is built on vLLM's, which has them."""
    names = IN_VLLM_IMAGE.read_text(encoding="utf-8").split() if lock in ON_VLLM_IMAGE else []
    return frozenset(names)


def header(lock: str) -> str:
    """The first lines of a lock; they change when what it is made from does."""
    inputs = json.dumps([requirements_of(lock), sorted(in_vllm_image(lock))])
    return (
        "# Made by deploy/docker/lock_requirements.py; do not edit.\n"
        f"# inputs: sha256 {hashlib.sha256(inputs.encode()).hexdigest()}\n"
    )


def is_current(lock: str) -> bool:
    """Whether a lock was made from what `pyproject.toml` says now."""
    file = FOLDER / f"{lock}.txt"
    return file.is_file() and file.read_text(encoding="utf-8").startswith(header(lock))


def pins(lock: str) -> Iterator[tuple[str, str]]:
    """Each package of a lock: its normalised name, and its lines (`name==version`, hashes)."""
    block: list[str] = []
    for line in (FOLDER / f"{lock}.txt").read_text(encoding="utf-8").splitlines(keepends=True):
        if line.startswith("#") or not line.strip():
            continue
        if not line.startswith(" ") and block:
            yield _name(block), "".join(block)
            block = []
        block.append(line)
    if block:
        yield _name(block), "".join(block)


def _name(block: Sequence[str]) -> str:
    return canonicalize_name(block[0].partition("==")[0])


def make(lock: str, *, upgrade: bool) -> None:
    """Resolves a lock and writes it."""
    file = FOLDER / f"{lock}.txt"
    subprocess.run(
        [
            *(sys.executable, "-m", "piptools", "compile", "-", "--output-file", str(file)),
            *("--quiet", "--generate-hashes", "--strip-extras", "--unsafe-package", "torch"),
            *("--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-trusted-host"),
            *("--no-emit-find-links", "--newline", "lf", *(["--upgrade"] if upgrade else [])),
        ],
        input="\n".join(requirements_of(lock)),
        text=True,
        check=True,
    )
    brought = in_vllm_image(lock)
    kept = [
        text for name, text in pins(lock) if name not in brought and not WITH_TORCH.fullmatch(name)
    ]
    file.write_text(header(lock) + "".join(kept), encoding="utf-8")


def main() -> int:
    """Makes the locks, or checks them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="only say which are out of date")
    parser.add_argument("--upgrade", action="store_true", help="take newer versions")
    parser.add_argument("locks", nargs="*", choices=[*LOCKS, []], default=[])
    options = parser.parse_args()
    locks = options.locks or LOCKS
    if options.check:
        old = [lock for lock in locks if not is_current(lock)]
        for lock in old:
            print(f"{FOLDER.name}/{lock}.txt does not fit pyproject.toml: make it anew")
        return 1 if old else 0
    for lock in locks:
        make(lock, upgrade=options.upgrade)
        print(f"{FOLDER.name}/{lock}.txt: {len(list(pins(lock)))} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
