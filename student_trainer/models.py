"""The student: its model, its tokenizer and where it runs."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from counterhint import tokenizer_fingerprint
from counterhint.errors import InputError
from student_trainer.acceleration import Attention, Liger, apply_attention, apply_liger
from student_trainer.config import Config
from student_trainer.lora import (
    ADAPTER,
    LoraConfig,
    adapter_layers,
    adapter_update,
    add_adapter,
    file_name,
)
from student_trainer.ranks import Ranks
from student_trainer.shards import place, whole


class StudentConfig(Config):
    """The model that is trained."""

    model: Path
    """Folder of the model in transformers format, with its tokenizer."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`; auto takes a GPU when there is one. Of several ranks each takes the
    GPU of its own local rank."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the forward and backward passes; weights and optimizer stay in float32."""
    gradient_checkpointing: bool = False
    """Keeps only each layer's input for the backward pass and computes the layer anew there."""
    attention: Attention = "auto"
    """Implementation of the attention; auto takes flash attention where it is installed and fits
    (GPU, bfloat16), else what transformers takes for the model."""
    liger: Liger = "auto"
    """Whether Liger's kernels replace parts of the layers; auto: on a GPU, where the package
    `liger-kernel` is installed and knows the model."""
    lora: LoraConfig | None = None
    """Trains a low-rank adapter in place of the whole model."""
    whole_gradients: bool = False
    """Of several ranks: each keeps whole gradients over the micro-batches of an update, and they
    are summed over the ranks once, not after each micro-batch. Less traffic, more memory."""


@dataclass(frozen=True, slots=True)
class Student:
    """A loaded student. Of several ranks, each holds a part of its weights (see `sharding`)."""

    model: PreTrainedModel
    """Its model, with float32 weights; with an adapter, among its layers."""
    tokenizer: PreTrainedTokenizerBase
    """Its tokenizer."""
    fingerprint: str
    """The tokenizer's fingerprint."""
    dtype: torch.dtype
    """Precision of its passes."""
    device: torch.device
    """Where it runs."""
    folder: Path | None = None
    """Where it was loaded from."""
    lora: LoraConfig | None = None
    """Its adapter's, where it has one."""
    whole_gradients: bool = False
    """Whether gradients are summed over the ranks once an update."""

    def autocast(self) -> torch.autocast:
        """The context in which its passes run."""
        return torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16
        )

    def end_ids(self) -> Sequence[int]:
        """The tokens that end a response."""
        configured = getattr(self.model.generation_config, "eos_token_id", None)
        if configured is None:
            configured = self.tokenizer.eos_token_id
        if configured is None:
            raise InputError(
                f"the model in {self.tokenizer.name_or_path} names no end-of-sequence token: set "
                "eos_token_id in its generation_config.json"
            )
        return [configured] if isinstance(configured, int) else list(configured)

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters that learn, by name; this rank's parts of them where they are sharded."""
        return {
            name: parameter
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad
        }

    @torch.no_grad()
    def full_tensors(
        self, replaced: Mapping[str, Tensor] | None = None
    ) -> Iterator[tuple[str, Tensor]]:
        """All weights of the model by the names of transformers, tied ones once, adapters merged.

        Collective: every rank must take all of them. Sharded ones are gathered one at a time.

        Args:
            replaced: values to take in place of trainable parameters, sharded like them.
        """
        values = replaced or {}
        adapters = adapter_layers(self.model)
        for name, own in stored_tensors(self.model).items():
            if _is_adapters(name):
                continue
            tensor = values.get(name, own.detach())
            layer = name.removesuffix(".base_layer.weight")
            if layer in adapters:
                tensor = tensor + adapter_update(adapters[layer])
            yield _base_name(name), whole(tensor)

    @torch.no_grad()
    def adapter_tensors(
        self, replaced: Mapping[str, Tensor] | None = None
    ) -> Iterator[tuple[str, Tensor]]:
        """The adapter's weights by the names of peft's files; collective like `full_tensors`."""
        for name, tensor in (replaced or self.trainable()).items():
            yield file_name(name), whole(tensor.detach())


def load_student(config: StudentConfig, ranks: Ranks | None = None) -> Student:
    """Loads a student.

    Of several ranks none holds the whole model: it has shapes only until `sharding.shard` divides
    it and loads each rank's part.

    Args:
        config: what to load, and where to.
        ranks: the processes of the run; None is this one alone.

    Raises:
        InputError: no model there, or one that the trainer cannot train.
    """
    _check_folder(config.model)
    device = find_device(config.device, ranks)
    alone = ranks is None or ranks.count == 1
    model = read_model(config.model) if alone else _without_weights(config.model)
    student = _assembled(config, model, device)
    if alone:
        model.to(device)  # type: ignore[arg-type]  # the stub lacks the device
    return student


def load_shapes(config: StudentConfig) -> Student:
    """A student whose model has shapes only: all that can be known without reading weights.

    Raises:
        InputError: as `load_student`, but for the weights and the device.
    """
    _check_folder(config.model)
    return _assembled(config, _without_weights(config.model), torch.device("meta"))


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise InputError(
            f"student.model: {folder} holds no model (no config.json): give a folder in "
            "transformers format; `counterhint models make RECIPE --out DIR` makes a recipe's own"
        )


def _assembled(config: StudentConfig, model: PreTrainedModel, device: torch.device) -> Student:
    """The student of a model, with its tokenizer, and its adapter where it has one."""
    with _readable(config.model):
        tokenizer = AutoTokenizer.from_pretrained(config.model, local_files_only=True)
    dtype: torch.dtype = getattr(torch, config.dtype)
    apply_attention(model, config.attention, dtype, device)
    apply_liger(model, config.liger, device)
    if config.lora is not None:
        add_adapter(model, config.lora, config.model)
    return Student(
        model,
        tokenizer,
        tokenizer_fingerprint(tokenizer),
        dtype,
        device,
        config.model,
        config.lora,
        config.whole_gradients,
    )


def load_weights(student: Student, folder: Path, ranks: Ranks) -> None:
    """Puts the weights of a model folder into a student's model, each rank's part of them.

    Collective. Only the first rank reads; one tensor at a time goes to the others.

    Raises:
        InputError: the folder holds no model, or another one.
    """
    source: dict[str, Tensor] = {}
    if ranks.first:
        model = read_model(folder)
        source = model.state_dict() | dict(model.named_buffers())
    # Buffers that no file holds (rotary frequencies) are computed when a model is built.
    targets = stored_tensors(student.model) | dict(student.model.named_buffers())
    for name, target in targets.items():
        if _is_adapters(name):
            continue
        if ranks.first and source[_base_name(name)].shape != target.shape:
            raise InputError(f"{folder} holds another model than {student.folder}: {name}")
        place(target, source.get(_base_name(name)), ranks)


def read_model(folder: Path) -> PreTrainedModel:
    """The model of a folder, on the CPU, in float32 and evaluation mode.

    Raises:
        InputError: it cannot be loaded.
    """
    loader: Any = AutoModelForCausalLM  # its stubs do not know output_loading_info
    logging.disable_progress_bar()
    with _readable(folder):
        model, report = loader.from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            output_loading_info=True,
        )
    if report["missing_keys"]:
        raise InputError(
            f"student.model: the safetensors in {folder} lack tensors of {type(model).__name__}, "
            f"{min(report['missing_keys'])} first: copy the folder again"
        )
    loaded: PreTrainedModel = model.eval()
    return loaded


def stored_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers that a model's files hold, tied ones once."""
    seen: set[int] = set()
    stored = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            stored[name] = tensor
    return stored


def _without_weights(folder: Path) -> PreTrainedModel:
    """A model that has shapes only."""
    with _readable(folder):
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.eval()
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model


def find_device(wanted: str, ranks: Ranks | None) -> torch.device:
    """The device of this rank.

    Raises:
        InputError: it cannot be used here.
    """
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and ranks is not None and ranks.count > 1:
        if wanted != "cuda":
            raise InputError(
                f"student.device: {wanted} is one GPU, but the run has {ranks.count} ranks: set it "
                "to cuda, and each takes its own"
            )
        wanted = f"cuda:{ranks.local_rank}"
    try:
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError) as error:  # torch raises either, by the kind of device
        raise InputError(f"student.device: {wanted} cannot be used here: {error}") from error
    device = torch.device(wanted)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(
            f"student.model: {folder} cannot be loaded: {error}; it must hold a causal language "
            "model in transformers format with its tokenizer, whole and undamaged"
        ) from error


def _is_adapters(name: str) -> bool:
    return f".{ADAPTER}." in name


def _base_name(name: str) -> str:
    """The name of a parameter in a model without adapter."""
    return name.replace(".base_layer.", ".")
