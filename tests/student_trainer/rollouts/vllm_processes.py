"""Real sampling servers as child processes, and the students that tests sample from."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Self

import numpy as np
import torch

from student_trainer.models import Student, StudentConfig, load_student
from student_trainer.rollouts.vllm_server import VllmServerSampler, VllmServerSamplerConfig
from tests.processes import running_in, wait_until
from tests.tiny_models import write_tiny_llama, write_tiny_qwen3

ENGINE_ARGS = {"dtype": "float32", "enforce_eager": True, "block_size": 32}
"""What vLLM needs for the numbers of a float32 student on a CPU."""
HEAD = 32
"""The smallest head that vLLM's attention for CPUs takes."""


def write_student(folder: Path, family: str, seed: int = 0) -> None:
    """Saves a tiny Llama with tied embeddings, or a Qwen3 with its own head."""
    if family == "llama":
        write_tiny_llama(folder, seed, hidden_size=4 * HEAD)
        return
    write_tiny_qwen3(folder, seed)


def read_student(folder: Path) -> Student:
    return load_student(StudentConfig(model=folder, device="cpu"))


@torch.no_grad()
def add_noise(student: Student, seed: int) -> None:
    """An update that moves every weight."""
    source = torch.Generator().manual_seed(seed)
    for value in student.model.parameters():
        value.add_(torch.randn(value.shape, generator=source), alpha=0.05)


@torch.no_grad()
def full_log_probs(
    student: Student, prompt: np.ndarray, response: np.ndarray, temperature: float = 1.0
) -> torch.Tensor:
    """The student's own `[T, V]`."""
    ids = torch.tensor(np.concatenate([prompt, response]))[None].long()
    logits = student.model(ids).logits[0, len(prompt) - 1 : -1]
    return (logits / temperature).log_softmax(-1)


class SamplingServer:
    """`counterhint sampler serve` on a unix socket; it can be killed and started anew."""

    def __init__(self, model: Path) -> None:
        self._model = model
        self.weights_dir = model / "pushed"
        self.weights_dir.mkdir(exist_ok=True)
        self.address = f"unix://{model}/sampler.sock"
        self.start()

    def start(self) -> None:
        command: list[str | Path] = [sys.executable, "-m", "deploy.cli", "sampler", "serve"]
        command += ["--model", self._model, "--weights-dir", self.weights_dir]
        command += ["--listen", self.address]
        # Without multiprocessing, engine and worker are one process, which starts sooner.
        environment = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "HF_HUB_OFFLINE": "1"}
        self._process = subprocess.Popen(
            [*command, *(f"{name}={value}" for name, value in ENGINE_ARGS.items())],
            env={**os.environ, **CPU_ENVIRONMENT, **environment},
            start_new_session=True,
        )

    def kill(self) -> None:
        """Kills it without a chance to say goodbye, and waits for its engine to notice."""
        self._process.kill()
        self._process.wait()
        wait_until(lambda: not running_in(self._process))

    def kill_engine(self) -> None:
        """Kills the engine's process alone."""
        (engine,) = (
            number
            for number, command in running_in(self._process).items()
            if command.startswith("VLLM::EngineCore")
        )
        os.kill(engine, signal.SIGKILL)

    def exit_code(self) -> int:
        """Waits for its end."""
        return self._process.wait()

    def sampler(self, student: Student, patience: float = 1800.0) -> VllmServerSampler:
        """A sampler that asks it, once it answers."""
        return VllmServerSamplerConfig(
            kind="vllm_server",
            addresses=(self.address,),
            weights_dir=self.weights_dir,
            patience=patience,
        ).build(student)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait(timeout=300)


CPU_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}
"""vLLM's settings for a small machine; they go by the environment only."""
