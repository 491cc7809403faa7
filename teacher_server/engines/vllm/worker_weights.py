"""What vLLM's workers do about weights that jobs name; every rank takes its own part of them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from safetensors import safe_open
from torch import Tensor, nn

from teacher_server.engines.vllm.cpu_adapters import add_lora_linear

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner


class WeightsWorker:
    """Methods that vLLM adds to its workers."""

    vllm_config: "VllmConfig"
    model_runner: "GPUModelRunner"

    def load_all_weights(self, file: str | None) -> None:
        """Replaces all weights of the model.

        vLLM's own `reload_weights` only logs what did not arrive, so that old weights would go on
        being used; this fails.

        Args:
            file: safetensors with full tensors by their names in transformers; None for those of
                the model folder.

        Raises:
            ValueError: weights are missing.
        """
        from vllm.config import set_current_vllm_config
        from vllm.model_executor.model_loader import get_model_loader
        from vllm.model_executor.model_loader.reload import (
            finalize_layerwise_reload,
            initialize_layerwise_reload,
        )

        model = self.model_runner.get_model()
        config = self.vllm_config.model_config
        # An adapter's layer stands around the one whose weights these are.
        wanted = {name.replace(".base_layer.", ".") for name, _ in model.named_parameters()}
        if file is None:
            loader: Any = get_model_loader(self.vllm_config.load_config)
            tensors = loader.get_all_weights(config, model)
        else:
            tensors = _read(file)
        with set_current_vllm_config(self.vllm_config):
            initialize_layerwise_reload(model)
            try:
                loaded = model.load_weights(tensors)
            finally:
                # Also of a part: what is left half loaded would go into the next load.
                finalize_layerwise_reload(model, config)
            _repack_tied_head(model)
        if missing := wanted - loaded:
            raise ValueError(f"no weights came for {', '.join(sorted(missing))}")

    def group_adapter_rows(self) -> None:
        """Has this CPU compute adapters as in `cpu_adapters` from now on."""
        from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

        PunicaWrapperCPU.add_lora_linear = add_lora_linear

    def layers_without_adapter(self, adapter: int) -> list[str]:
        """The layers that this adapter has weights for, but that take none on this rank."""
        manager = self.model_runner.lora_manager._adapter_manager
        return sorted(set(manager.get_adapter(adapter).loras) - set(manager.modules))


def _read(file: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a safetensors file, one at a time."""
    with safe_open(file, framework="pt") as content:
        for name in sorted(content.keys()):
            yield name, content.get_tensor(name)


def _repack_tied_head(model: nn.Module) -> None:
    """Renews a head's copy of the embeddings' weights: on a CPU vLLM computes the head from a
    packed copy, and a reload renews it only for the layer that weights were loaded into."""
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    parameters = [id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False)]
    for module in model.modules():
        if isinstance(module, ParallelLMHead) and parameters.count(id(module.weight)) > 1:
            module.quant_method.process_weights_after_loading(module)
