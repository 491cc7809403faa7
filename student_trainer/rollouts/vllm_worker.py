"""What vLLM's workers do when the student's weights are pushed (its `worker_extension_cls`)."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from safetensors import safe_open
from torch import Tensor

from counterhint import process_ends

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner


class WeightLoader:
    """Methods that vLLM adds to its workers."""

    vllm_config: "VllmConfig"
    model_runner: "GPUModelRunner"

    def end_with(self, host: str, pid: int) -> None:
        """Ends this process, and vLLM's engine with it, when the sampling server's has ended.

        Args:
            host: the server's machine; workers on other machines have vLLM's own means.
            pid: the server's process.
        """
        process_ends.end_with(host, pid)

    def load_student_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Replaces all weights.

        vLLM's own `reload_weights` only logs what did not arrive, so that old weights would go on
        being used; this fails.

        Args:
            weights: full tensors by their names in transformers; tied ones under each name.

        Raises:
            ValueError: weights are missing, or the model ties some of its own.
        """
        from vllm.config import set_current_vllm_config
        from vllm.model_executor.model_loader.reload import (
            finalize_layerwise_reload,
            initialize_layerwise_reload,
        )

        model = self.model_runner.get_model()
        wanted = {name for name, _ in model.named_parameters()}
        tied = {name for name, _ in model.named_parameters(remove_duplicate=False)} - wanted
        if tied:
            raise ValueError(f"vLLM ties weights in this model, and reloads only one: {tied}")
        with set_current_vllm_config(self.vllm_config):
            initialize_layerwise_reload(model)
            loaded = model.load_weights(weights)
            finalize_layerwise_reload(model, self.vllm_config.model_config)
        missing = wanted - loaded
        if missing:
            raise ValueError(f"no weights came for {', '.join(sorted(missing))}")

    def load_student_weights_file(self, file: str) -> None:
        """Replaces all weights by those of a safetensors file; see `load_student_weights`."""
        with safe_open(file, framework="pt") as content:
            names = content.keys()
            self.load_student_weights((name, content.get_tensor(name)) for name in names)
