"""What every engine asks of a model folder: that it is one, its tokenizer, its revision."""

import hashlib
import os
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from counterhint.errors import InputError
from counterhint.fingerprint import tokenizer_fingerprint


def check_model_folder(folder: Path) -> None:
    """Refuses what is no model folder in the transformers format.

    Raises:
        InputError: the folder is missing, has no config.json or no safetensors, or one of these
            files is damaged.
    """
    if not folder.is_dir():
        raise InputError(
            f"--model {folder}: no such folder; give a model folder in the transformers format"
        )
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise InputError(
            f"--model {folder} is no model folder: it needs config.json and *.safetensors "
            "(save_pretrained writes both)"
        )
    for file in sorted(folder.glob("*.safetensors")):
        try:
            # Reads the header, and compares the file's length with it.
            with safe_open(file, "pt"):
                pass
        except SafetensorError as error:
            raise InputError(
                f"--model {folder}: its safetensors are damaged ({file.name}: {error}): copy the "
                "folder again"
            ) from error


def folder_name(folder: Path) -> str:
    """The name that was given to the folder, not that of what a symbolic link points to."""
    return Path(os.path.abspath(folder)).name  # resolve() would follow links


def folder_fingerprint(folder: Path) -> str:
    """The fingerprint of the folder's tokenizer.

    Raises:
        InputError: it has none that can be loaded.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except (ValueError, OSError) as error:
        raise InputError(
            f"--model {folder} has no tokenizer that can be loaded: save the student's "
            f"beside the model with tokenizer.save_pretrained ({error})"
        ) from error
    if not tokenizer.get_vocab():
        raise InputError(
            f"--model {folder} has no tokenizer: save the student's beside the model with "
            "tokenizer.save_pretrained"
        )
    return tokenizer_fingerprint(tokenizer)


def folder_revision(folder: Path) -> str:
    """Twelve hexadecimal digits of the SHA-256 over the folder's safetensors files."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]


def model_outline(folder: Path, dtype: Literal["float32", "bfloat16"]) -> PreTrainedModel:
    """The folder's model on the meta device: its layers, names and shapes, no weights."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, dtype=getattr(torch, dtype), trust_remote_code=False
        )
    return model
