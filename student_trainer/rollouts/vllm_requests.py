"""What the samplers on vLLM share: the engine's arguments, its requests and its output.

vLLM is imported when a sampler is made, never before: most environments lack it.
"""

import dataclasses
import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from counterhint.errors import EngineFailure, InputError
from counterhint.tensors import TokenIds
from student_trainer.rollouts.base import Sample

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.inputs import TokensInput
    from vllm.outputs import CompletionOutput

LOWEST_TEMPERATURE = 0.01
"""vLLM raises lower ones to this without a word, except 0."""

_OURS: dict[str, Any] = {
    # Weights are always pushed, so the folder gives the model's shape only.
    "load_format": "dummy",
    "worker_extension_cls": "student_trainer.rollouts.vllm_worker.WeightLoader",
    # Token ids in, token ids out.
    "skip_tokenizer_init": True,
    # No top-p, top-k or temperature from the model's generation_config.json.
    "generation_config": "vllm",
    # Log probs of the distribution that was drawn from, temperature included.
    "logprobs_mode": "processed_logprobs",
    "max_logprobs": -1,
    # vLLM reloads only one of two tied weights, and on a CPU computes with a packed copy of the
    # other, which then stays as it was. So nothing is tied there, and both are pushed.
    "hf_overrides": {"tie_word_embeddings": False},
}


def engine_arguments(model: Path, given: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The arguments of a vLLM engine that samples for training.

    Args:
        model: folder of the student's model.
        given: the user's, by vLLM's names; `hf_overrides` are joined with ours.
        prefix: what stands before a name in messages, `rollouts.sampler.engine_args.` say.

    Raises:
        InputError: vLLM is not installed, or an argument is unknown or not the user's to choose.
    """
    if importlib.util.find_spec("vllm") is None:
        raise InputError(
            "vllm is not installed here: pip install 'counterhint[student-vllm]', or use "
            "rollouts.sampler.kind=built_in"
        )
    from vllm.engine.arg_utils import EngineArgs

    known = {field.name for field in dataclasses.fields(EngineArgs)}
    for name, value in given.items():
        if name not in known:
            raise InputError(
                f"{prefix}{name}: vLLM {vllm_version()} has no such engine argument (got "
                f"{value!r}); give it by its name in Python, max_model_len say"
            )
        if name == "model" or (name in _OURS and name != "hf_overrides"):
            raise InputError(
                f"{prefix}{name}: sampling for training needs a value of its own there (got "
                f"{value!r}); remove it"
            )
    overrides = {**given.get("hf_overrides", {}), **_OURS["hf_overrides"]}
    return {**given, **_OURS, "hf_overrides": overrides, "model": str(model)}


def parse_engine_arguments(words: Sequence[str]) -> dict[str, Any]:
    """Engine arguments from `name=value` words of a command line, values in YAML.

    Raises:
        InputError: a word is none.
    """
    arguments = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not name or not equals:
            raise InputError(f"{word!r} is not name=value, for example max_model_len=4096")
        try:
            arguments[name] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InputError(f"{word!r}: the value is not YAML: {error}") from error
    return arguments


def vllm_version() -> str:
    """Its version; the distribution may be called otherwise, so the module is asked."""
    import vllm

    return str(vllm.__version__)


def with_tied(
    weights: Iterable[tuple[str, Tensor]], model: PreTrainedModel
) -> Iterator[tuple[str, Tensor]]:
    """The weights, and those tied to one of them under their own names as well."""
    tied: dict[str, list[str]] = {}
    for name, source in model.all_tied_weights_keys.items():
        tied.setdefault(source, []).append(name)
    for name, value in weights:
        yield name, value
        for other in tied.get(name, ()):
            yield other, value


def check_temperature(temperature: float) -> None:
    """Refuses a temperature that vLLM would change.

    Raises:
        InputError: it lies between 0 and `LOWEST_TEMPERATURE`.
    """
    if 0 < temperature < LOWEST_TEMPERATURE:
        raise InputError(
            f"temperature {temperature:g}: vLLM samples at {LOWEST_TEMPERATURE} or above; give "
            "that, or use rollouts.sampler.kind=built_in"
        )


def check_lengths(prompts: Sequence[TokenIds], max_new_tokens: int, max_model_len: int) -> None:
    """Refuses prompts whose responses vLLM would cut short.

    Raises:
        InputError: the longest prompt and response do not fit.
    """
    longest = max(map(len, prompts)) + max_new_tokens
    if longest > max_model_len:
        raise InputError(
            f"the longest prompt and max_new_tokens ({max_new_tokens}) make {longest} tokens, but "
            f"vLLM's max_model_len is {max_model_len}: raise the engine argument, or lower "
            "rollouts.max_new_tokens"
        )


def engine_prompt(prompt: TokenIds) -> "TokensInput":
    """A prompt as vLLM's engines take it."""
    from vllm.inputs import tokens_input

    return tokens_input(prompt.tolist())


def sampling_params(
    *,
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    draw_top_k: int,
    draw_top_p: float,
    end_ids: Sequence[int],
    seed: int,
) -> "SamplingParams":
    """vLLM's parameters of one response; the arguments are those of `SamplingRequest`."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        max_tokens=max_new_tokens,
        temperature=temperature,
        top_k=draw_top_k,
        top_p=draw_top_p,
        seed=seed,
        logprobs=top_k,
        flat_logprobs=True,
        # The student's end tokens and no others; they stay in the response.
        ignore_eos=True,
        stop_token_ids=list(end_ids),
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


@dataclass(frozen=True, slots=True)
class Response:
    """One response that vLLM gave."""

    token_ids: TokenIds
    """int32 `[T]`, with the end token if there is one."""
    log_probs: NDArray[np.float32]
    """`[T]`."""
    top_k_ids: NDArray[np.int32] | None
    """`[T, k]`, best first; None for k = 0."""
    finished: bool
    """Whether it ended by itself."""

    def sample(self, revision: int) -> Sample:
        """The sample, once it is known which weights drew it."""
        return Sample(
            token_ids=self.token_ids,
            log_probs=self.log_probs,
            entropies=None,  # vLLM has none
            finished=self.finished,
            top_k_ids=self.top_k_ids,
            revision=revision,
        )


def read_response(output: "CompletionOutput", top_k: int) -> Response:
    """What vLLM gave for one request.

    Raises:
        EngineFailure: it ended neither by an end token nor by its length, or numbers are missing.
    """
    if output.finish_reason not in ("stop", "length"):
        raise EngineFailure(
            f"vLLM ended a response for the reason {output.finish_reason!r}", reason="NOT_SAMPLED"
        )
    token_ids = np.array(output.token_ids, dtype=np.int32)
    # A position's entries: the token that was drawn, then the k most probable ones, best first.
    shape = len(token_ids), top_k + 1
    flat = output.logprobs
    if flat is None or len(flat.logprobs) != shape[0] * shape[1]:
        raise EngineFailure("vLLM gave log probs for other tokens", reason="NOT_SAMPLED")
    log_probs = np.array(flat.logprobs, dtype=np.float32).reshape(shape)[:, 0].copy()
    ids = np.array(flat.token_ids, dtype=np.int32).reshape(shape)
    if not np.isfinite(log_probs).all() or (ids[:, 0] != token_ids).any():
        raise EngineFailure("vLLM gave no log prob for a token that it drew", reason="NOT_SAMPLED")
    return Response(
        token_ids=token_ids,
        log_probs=log_probs,
        top_k_ids=ids[:, 1:].copy() if top_k else None,
        finished=output.finish_reason == "stop",
    )
