"""Weights that jobs name: read from allowed places only, checked by hash, a bounded number kept."""

import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import unquote, urlsplit

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load

from counterhint.errors import WeightsUnavailable
from counterhint.jobs import ADAPTER_METADATA, Weights
from teacher_server import metrics

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """What a weights file holds."""

    tensors: dict[str, torch.Tensor]
    """Those of a whole model, or of an adapter."""
    adapter: dict[str, Any] | None
    """The adapter's settings (peft's `adapter_config.json`); None for a whole model."""


def read_weights(weights: Weights, roots: Sequence[Path]) -> WeightsFile:
    """The content of a weights file; exactly the bytes that were hashed are parsed.

    Args:
        weights: what a job names.
        roots: the folders that files may come from; symbolic links are resolved before asking.

    Raises:
        WeightsUnavailable: WEIGHTS_NOT_ALLOWED, WEIGHTS_NOT_FOUND, WEIGHTS_HASH_MISMATCH, or
            WEIGHTS_INCOMPATIBLE when it is not a safetensors file, or its adapter's settings are
            not JSON.
    """
    path = _allowed_path(weights, roots)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unavailable(
            weights, "WEIGHTS_NOT_FOUND", f"{path} cannot be read ({error.strerror})"
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != weights.sha256.lower():
        # Who knows a file's hash may use it, so that only the log tells what it is.
        log.warning("%s has sha256 %s, a job named %.70r", path, found, weights.sha256)
        raise _unavailable(
            weights,
            "WEIGHTS_HASH_MISMATCH",
            f"the job says that {path} has sha256 {weights.sha256 or '(none)'}, and it has not",
        )
    try:
        tensors = load(content)
    except SafetensorError as error:
        raise incompatible(weights, f"{path} is not a safetensors file ({error})") from error
    settings = _metadata(content).get(ADAPTER_METADATA)
    if settings is None:
        return WeightsFile(tensors, None)
    try:
        adapter = json.loads(settings)
    except ValueError as error:
        raise incompatible(weights, f"its metadata {ADAPTER_METADATA} is not JSON") from error
    if not isinstance(adapter, dict):
        raise incompatible(weights, f"its metadata {ADAPTER_METADATA} is not a JSON object")
    return WeightsFile(tensors, adapter)


def is_adapter(weights: Weights, roots: Sequence[Path]) -> bool:
    """Whether the file is an adapter, by its header alone: nothing is checked by hash yet.

    Raises:
        WeightsUnavailable: as `read_weights` does.
    """
    path = _allowed_path(weights, roots)
    try:
        with safe_open(path, framework="pt") as file:
            return ADAPTER_METADATA in (file.metadata() or {})
    except (OSError, SafetensorError):
        return read_weights(weights, roots).adapter is not None  # which says what is wrong


def _metadata(content: bytes) -> dict[str, str]:
    """The metadata of a safetensors file, which its reader of bytes leaves out: the file begins
    with the length of a JSON header, 8 bytes, little-endian."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    metadata: dict[str, str] = header.get("__metadata__", {})
    return metadata


def _allowed_path(weights: Weights, roots: Sequence[Path]) -> Path:
    try:
        parts = urlsplit(weights.uri)
        path = Path(unquote(parts.path)).resolve()
    except (ValueError, RuntimeError) as error:  # half a host, a zero byte, links in a circle
        raise _unavailable(
            weights, "WEIGHTS_NOT_ALLOWED", f"{weights.uri!r} is no address of a file: {error}"
        ) from error
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        raise _unavailable(
            weights,
            "WEIGHTS_NOT_ALLOWED",
            f"{weights.uri!r} is not a file:/// address: write file:// before an absolute path",
        )
    if path.suffix != ".safetensors":
        raise _unavailable(
            weights, "WEIGHTS_NOT_ALLOWED", f"{path} does not end in .safetensors, the only format"
        )
    if not any(path.is_relative_to(root.resolve()) for root in roots):
        allowed = ", ".join(map(str, roots)) or "none"
        raise _unavailable(
            weights,
            "WEIGHTS_NOT_ALLOWED",
            f"{path} is outside the teacher's weights roots ({allowed}): start it with "
            f"--weights-root {path.parent}",
        )
    try:
        exists = path.is_file()
    except OSError:  # a name that is too long for the file system
        exists = False
    if not exists:
        raise _unavailable(weights, "WEIGHTS_NOT_FOUND", f"{path} does not exist")
    return path


def fit_to_model(
    tensors: dict[str, torch.Tensor], model: torch.nn.Module, weights: Weights
) -> dict[str, torch.Tensor]:
    """A complete state dict for `model`, in its data type.

    Names and shapes must be the model's, no more and no less, and all values finite; of tied
    tensors (input and output embeddings, as a rule) the file may hold one or all, but then equal
    ones.

    Raises:
        WeightsUnavailable: WEIGHTS_INCOMPATIBLE, naming the first tensor that does not fit.
    """
    # The parameters themselves, not what is in them: the model may be on the meta device.
    wanted: dict[str, torch.Tensor] = model.state_dict(keep_vars=True)
    fitted: dict[str, torch.Tensor] = {}
    for name, own in wanted.items():
        same = [name, *(other for other in wanted if other != name and wanted[other] is own)]
        given = [other for other in same if other in tensors]
        if not given:
            raise incompatible(weights, f"tensor {name} is not in the file")
        tensor = tensors[given[0]]
        if tensor.shape != own.shape:
            raise incompatible(
                weights,
                f"tensor {given[0]} is {list(tensor.shape)}, but the teacher's is "
                f"{list(own.shape)}",
            )
        if any(not torch.equal(tensor, tensors[other]) for other in given[1:]):
            raise incompatible(
                weights,
                f"tensors {', '.join(given)} differ, but the teacher's model ties them",
            )
        fitted[name] = tensor.to(own.dtype)
        if not bool(fitted[name].isfinite().all()):
            raise incompatible(weights, f"tensor {given[0]} holds values that are not finite")
    if unknown := sorted(set(tensors) - set(wanted)):
        raise incompatible(weights, f"tensor {unknown[0]} is not in the teacher's model")
    return fitted


def incompatible(weights: Weights, message: str) -> WeightsUnavailable:
    """The error of weights that the teacher's model cannot take."""
    return _unavailable(weights, "WEIGHTS_INCOMPATIBLE", message)


def _unavailable(weights: Weights, reason: str, message: str) -> WeightsUnavailable:
    return WeightsUnavailable(
        f"weights {weights.name!r} revision {weights.revision!r}: {message}",
        reason=reason,
        details={"name": weights.name, "revision": weights.revision, "uri": weights.uri},
    )


class LoadedWeights(Generic[T]):
    """What was built from named weights, at most `bound` of them, least recently used out first.

    Args:
        bound: how many are kept.
        prepare: reads and checks the file, and returns what builds that which is kept; it is called
            once there is room. When it raises, nothing is dropped.
    """

    def __init__(self, bound: int, prepare: Callable[[Weights], Callable[[], T]]) -> None:
        self._bound = bound
        self._prepare = prepare
        self._loaded: OrderedDict[tuple[str, str], T] = OrderedDict()

    def get(self, weights: Weights) -> T:
        """What belongs to these weights, loaded if it is not there; file and hash tell them apart.

        Raises:
            WeightsUnavailable: they cannot be used.
        """
        key = (weights.uri, weights.sha256.lower())
        if key not in self._loaded:
            build = self._prepare(weights)
            while len(self._loaded) >= self._bound:
                (uri, _), _ = self._loaded.popitem(last=False)
                log.info("dropped weights %s", uri)
            self._loaded[key] = build()
            metrics.WEIGHTS_LOADED.set(len(self._loaded))
            log.info("loaded weights %s revision %s", weights.name, weights.revision)
        self._loaded.move_to_end(key)
        return self._loaded[key]

    def __len__(self) -> int:
        return len(self._loaded)
