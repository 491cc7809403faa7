from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from student_trainer.metrics import Utilisation, utilisation
from student_trainer.metrics.utilisation import ModelFlops, peak_tflops
from tests.tiny_models import write_tiny_llama


@pytest.mark.parametrize("tied", [True, False])
def test_the_count_agrees_with_what_torch_counts(tmp_path: Path, tied: bool) -> None:
    model = write_tiny_llama(tmp_path, tie_word_embeddings=tied, attn_implementation="eager")
    ids = torch.randint(3, 60, (2, 48), generator=torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counter:
        model(ids).logits.sum().backward()
    # Torch counts products of matrices alone: not the norms' weights, which the formula includes.
    counted = ModelFlops.of(model).training([48, 48])
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_frozen_parameters_save_their_gradient(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path)
    whole = ModelFlops.of(model)
    model.requires_grad_(False)
    frozen = ModelFlops.of(model)
    assert (whole.trained, frozen.trained) == (whole.parameters, 0)
    assert whole.training([10]) - frozen.training([10]) == 10 * 2 * whole.parameters


def test_a_share_of_the_peak_of_all_devices(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path)
    flops = ModelFlops.of(model).training([100])
    measured = Utilisation(model, devices=4, tflops=2e-6).metrics([100], update_seconds=10.0)
    assert measured == {"time/mfu": pytest.approx(flops / (10 * 4 * 2e6))}


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA H100 NVL", 835.0),
        ("NVIDIA H200", 989.4),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA A10", 125.0),
        ("NVIDIA L40S", 362.05),
        ("NVIDIA L40", 181.05),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA B200", 2250.0),
        ("NVIDIA GB200", 2500.0),
        ("Tesla T4", None),
    ],
)
def test_peaks_by_name(name: str, peak: float | None) -> None:
    assert peak_tflops(name) == peak


def test_nothing_is_measured_on_a_cpu(tmp_path: Path) -> None:
    assert utilisation(write_tiny_llama(tmp_path), torch.device("cpu"), 1, 100.0) is None
