"""Weights that jobs name, in vLLM: adapters side by side, whole weights in turn.

Adapters (LoRA) belong to the server's own weights and are held by vLLM, as many as
`--max-loaded-weights`. Whole weights take the place of the server's own in vLLM's workers: jobs
under way end, the weights are loaded, and the prefix cache is emptied. Who waits for what is in
`turns`.
"""

import asyncio
import itertools
import json
import shutil
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from safetensors.torch import save_file
from transformers import PreTrainedModel

from counterhint.errors import ENGINE_DEAD, Unavailable
from counterhint.jobs import Weights
from teacher_server import metrics
from teacher_server.adapters import adapter_factors
from teacher_server.engines.model_folder import folder_revision, model_outline
from teacher_server.engines.vllm.held_weights import HeldWeights, weights_key
from teacher_server.engines.vllm.options import VllmOptions
from teacher_server.weights import fit_to_model, incompatible, is_adapter, read_weights

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest
    from vllm.v1.engine.async_llm import AsyncLLM


class VllmWeights:
    """Sees to it that a job is scored by the weights that it names, all of it.

    Args:
        llm: the engine; it holds the server's own weights.
        options: of the engine.
        own_revision: of the server's own weights.
        folder: for private copies of what jobs name, which vLLM reads.
    """

    def __init__(
        self, llm: "AsyncLLM", options: VllmOptions, own_revision: str, folder: Path
    ) -> None:
        self._llm = llm
        self._options = options
        self._own_revision = own_revision
        self._lora: Any = llm.vllm_config.lora_config
        self._folder = folder / "weights"
        self._folder.mkdir()
        self._numbers = itertools.count(1)
        self._base: HeldWeights[Path | None, Weights | None] = HeldWeights(
            1, self._prepare_base, self._load_base, self._forget_base
        )
        self._base.held[None] = None
        self._adapters: HeldWeights[LoRARequest, LoRARequest] = HeldWeights(
            options.max_loaded_weights, self._prepare_adapter, self._load_adapter, self._drop
        )

    async def start(self) -> None:
        """Sets up adapters in the workers."""
        from vllm.platforms import current_platform

        config = self._llm.vllm_config
        # What vLLM compiles keeps its own way.
        if self._lora and current_platform.is_cpu() and config.model_config.enforce_eager:
            await self._llm.collective_rpc("group_adapter_rows")

    @property
    def whole(self) -> Weights | None:
        """The whole weights that vLLM holds; None for the server's own, or when it holds none."""
        return next(iter(self._base.held.values()), None)

    @property
    def steps(self) -> int:
        """Grows while weights are being loaded."""
        return self._base.steps + self._adapters.steps

    @asynccontextmanager
    async def use(self, weights: Weights | None) -> AsyncIterator["LoRARequest | None"]:
        """Inside the block vLLM computes with these weights (None: the server's own), and with
        the adapter that its requests must carry, if any.

        Raises:
            WeightsUnavailable: they cannot be used; others can.
            Unavailable: vLLM can no longer go back to the server's own, or is dead.
        """
        if weights is None or weights_key(weights) in self._base.held:
            is_whole = True
        elif weights_key(weights) in self._adapters.held:
            is_whole = False
        else:
            roots = self._options.weights_roots
            is_whole = not await asyncio.to_thread(is_adapter, weights, roots)
        if is_whole:
            async with self._base.use(weights):
                metrics.WEIGHTS_LOADED.set(self.held())
                yield None
        else:
            async with self._base.use(None), self._adapters.use(weights) as adapter:
                metrics.WEIGHTS_LOADED.set(self.held())
                yield adapter

    def held(self) -> int:
        """How many named weights vLLM holds."""
        return len(self._adapters.held) + sum(key is not None for key in self._base.held)

    def _prepare_base(self, weights: Weights | None) -> Path | None:
        """A private file of checked whole weights, by their names in transformers; None for the
        server's own, which are where they were."""
        if weights is None:
            if folder_revision(self._options.model) != self._own_revision:
                raise Unavailable(
                    f"--model {self._options.model} was changed since the start, so the server's "
                    "own weights cannot be loaded again: restart it",
                    reason=ENGINE_DEAD,
                )
            return None
        if quantization := self._llm.vllm_config.model_config.quantization:
            raise incompatible(
                weights,
                f"the teacher's model is quantised ({quantization}), so it takes adapters only",
            )
        file = read_weights(weights, self._options.weights_roots)
        if file.adapter is not None:
            raise incompatible(weights, "the file was replaced by an adapter")
        tensors = fit_to_model(file.tensors, self._outline, weights)
        # Of tied tensors vLLM reads the first; safetensors do not hold a tensor twice.
        first = {tensor.data_ptr(): name for name, tensor in reversed(tensors.items())}
        path = self._folder / f"{next(self._numbers)}.safetensors"
        save_file({name: tensors[name].contiguous() for name in first.values()}, path)
        return path

    async def _load_base(self, weights: Weights | None, file: Path | None) -> Weights | None:
        try:
            # Ends what was cancelled but is still under way; nothing else is.
            await self._call(self._llm.pause_generation(mode="abort"), weights)
            await self._call(
                self._llm.collective_rpc("load_all_weights", args=(file and str(file),)), weights
            )
            if not await self._call(self._llm.reset_prefix_cache(), weights):
                raise Unavailable("vLLM's prefix cache cannot be emptied", reason=ENGINE_DEAD)
            await self._call(self._llm.resume_generation(), weights)
        finally:
            if file is not None:
                await asyncio.to_thread(file.unlink)
        return weights

    async def _forget_base(self, _: Weights | None) -> None:
        """The next weights overwrite them."""

    def _prepare_adapter(self, weights: Weights | None) -> "LoRARequest":
        """A private folder with the checked adapter, as a request for it."""
        from vllm.lora.request import LoRARequest

        assert weights is not None
        file = read_weights(weights, self._options.weights_roots)
        if file.adapter is None:
            raise incompatible(weights, "the file was replaced by whole weights")
        if self._lora is None:
            raise incompatible(
                weights,
                "this teacher takes no adapters: start it with --engine-arg enable_lora=true",
            )
        factors = adapter_factors(self._outline, file.tensors, file.adapter, weights)
        rank = max(len(tensor) for name, tensor in factors.items() if ".lora_A." in name)
        if rank > self._lora.max_lora_rank:
            raise incompatible(
                weights,
                f"an adapter of rank {rank}, but the teacher takes {self._lora.max_lora_rank} at "
                f"most: start it with --engine-arg max_lora_rank={_rank_for(rank)}",
            )
        number = next(self._numbers)
        folder = self._folder / str(number)
        folder.mkdir()
        save_file(factors, folder / "adapter_model.safetensors")
        layers = sorted({name.split(".lora_")[0].rpartition(".")[2] for name in factors})
        plain = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": layers}
        (folder / "adapter_config.json").write_text(json.dumps(plain))
        # The prefix cache tells adapters apart by name and path.
        return LoRARequest(weights.sha256.lower(), number, str(folder))

    async def _load_adapter(self, weights: Weights | None, adapter: "LoRARequest") -> "LoRARequest":
        try:
            await self._call(self._llm.add_lora(adapter), weights)
            ignored: list[list[str]] = await self._call(
                self._llm.collective_rpc("layers_without_adapter", args=(adapter.lora_int_id,)),
                weights,
            )
            if nowhere := set.intersection(*map(set, ignored)):
                await self._call(self._llm.remove_lora(adapter.lora_int_id), weights)
                assert weights is not None
                raise incompatible(weights, f"vLLM takes no adapter at {min(nowhere)}")
        except BaseException:
            shutil.rmtree(adapter.lora_path)
            raise
        return adapter

    async def _drop(self, adapter: "LoRARequest") -> None:
        await self._call(self._llm.remove_lora(adapter.lora_int_id), None)
        shutil.rmtree(adapter.lora_path)

    async def _call(self, call: Awaitable[Any], weights: Weights | None) -> Any:
        """What the engine answers; that it fails is the fault of named weights, if any."""
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            return await call
        except EngineDeadError as error:
            raise Unavailable("vLLM's engine is dead", reason=ENGINE_DEAD) from error
        except Exception as error:  # vLLM's calls have no class of their own for what failed
            if weights is None:
                raise Unavailable(f"vLLM failed: {error}", reason=ENGINE_DEAD) from error
            raise incompatible(weights, f"vLLM cannot load them ({error})") from error

    @cached_property
    def _outline(self) -> PreTrainedModel:
        return model_outline(self._options.model, self._options.dtype)


def _rank_for(rank: int) -> int:
    """The smallest `max_lora_rank` that vLLM knows and that is large enough."""
    from vllm.config.lora import MaxLoRARanks

    ranks: tuple[int, ...] = get_args(MaxLoRARanks)
    return min((known for known in ranks if known >= rank), default=rank)
