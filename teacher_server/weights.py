"""Weights that jobs name: read from allowed places only, checked by hash, a bounded number kept."""

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar
from urllib.parse import unquote, urlsplit

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from counterhint.errors import WeightsUnavailable
from counterhint.jobs import Weights

T = TypeVar("T")

log = logging.getLogger(__name__)


def read_weights(weights: Weights, roots: Sequence[Path]) -> dict[str, torch.Tensor]:
    """The tensors of a weights file; exactly the bytes that were hashed are parsed.

    Args:
        weights: what a job names.
        roots: the folders that files may come from; symbolic links are resolved before asking.

    Raises:
        WeightsUnavailable: WEIGHTS_NOT_ALLOWED, WEIGHTS_NOT_FOUND, WEIGHTS_HASH_MISMATCH, or
            WEIGHTS_INCOMPATIBLE when it is not a safetensors file.
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
        raise _unavailable(
            weights,
            "WEIGHTS_HASH_MISMATCH",
            f"{path} has sha256 {found}, but the job names {weights.sha256 or '(none)'}",
        )
    try:
        return load(content)
    except SafetensorError as error:
        raise _unavailable(
            weights, "WEIGHTS_INCOMPATIBLE", f"{path} is not a safetensors file ({error})"
        ) from error


def _allowed_path(weights: Weights, roots: Sequence[Path]) -> Path:
    parts = urlsplit(weights.uri)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        raise _unavailable(
            weights, "WEIGHTS_NOT_ALLOWED", f"{weights.uri!r} is not a file:/// address"
        )
    path = Path(unquote(parts.path)).resolve()
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
    if not path.is_file():
        raise _unavailable(weights, "WEIGHTS_NOT_FOUND", f"{path} does not exist")
    return path


def fit_to_model(
    tensors: dict[str, torch.Tensor], model: torch.nn.Module, weights: Weights
) -> dict[str, torch.Tensor]:
    """A complete state dict for `model`, in its data type.

    Names and shapes must be the model's, no more and no less; of tied tensors (input and output
    embeddings, as a rule) the file may hold one or all, but then equal ones.

    Raises:
        WeightsUnavailable: WEIGHTS_INCOMPATIBLE, naming the first tensor that does not fit.
    """
    wanted = model.state_dict()
    fitted: dict[str, torch.Tensor] = {}
    for name, own in wanted.items():
        same = [other for other in _tied_names(name, wanted) if other in tensors]
        if not same:
            raise _unavailable(weights, "WEIGHTS_INCOMPATIBLE", f"tensor {name} is not in the file")
        tensor = tensors[same[0]]
        if tensor.shape != own.shape:
            raise _unavailable(
                weights,
                "WEIGHTS_INCOMPATIBLE",
                f"tensor {same[0]} is {list(tensor.shape)}, but the teacher's is {list(own.shape)}",
            )
        if any(not torch.equal(tensor, tensors[other]) for other in same[1:]):
            raise _unavailable(
                weights,
                "WEIGHTS_INCOMPATIBLE",
                f"tensors {', '.join(same)} differ, but the teacher's model ties them",
            )
        fitted[name] = tensor.to(own.dtype)
    if unknown := sorted(set(tensors) - set(wanted)):
        raise _unavailable(
            weights, "WEIGHTS_INCOMPATIBLE", f"tensor {unknown[0]} is not in the teacher's model"
        )
    return fitted


def _tied_names(name: str, state: dict[str, torch.Tensor]) -> list[str]:
    """The names of the tensor and of those that share its memory, its own first."""
    own = state[name]
    others = [
        other
        for other, tensor in state.items()
        if other != name and tensor.data_ptr() == own.data_ptr() and tensor.shape == own.shape
    ]
    return [name, *others]


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
        read: reads and checks the file; when it raises, nothing is dropped.
        build: makes what is kept, once there is room for it.
    """

    def __init__(
        self,
        bound: int,
        read: Callable[[Weights], dict[str, torch.Tensor]],
        build: Callable[[dict[str, torch.Tensor]], T],
    ) -> None:
        self._bound = bound
        self._read = read
        self._build = build
        self._loaded: OrderedDict[tuple[str, str], T] = OrderedDict()

    def get(self, weights: Weights) -> T:
        """What belongs to these weights, loaded if it is not there; file and hash tell them apart.

        Raises:
            WeightsUnavailable: they cannot be used.
        """
        key = (weights.uri, weights.sha256.lower())
        if key not in self._loaded:
            tensors = self._read(weights)
            while len(self._loaded) >= self._bound:
                (uri, _), _ = self._loaded.popitem(last=False)
                log.info("dropped weights %s", uri)
            self._loaded[key] = self._build(tensors)
            log.info("loaded weights %s revision %s", weights.name, weights.revision)
        self._loaded.move_to_end(key)
        return self._loaded[key]

    def __len__(self) -> int:
        return len(self._loaded)
