from types import SimpleNamespace

import pytest
import torch

from teacher_server.engines.vllm.cpu_adapters import add_lora_linear


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_each_row_gets_its_own_adapter_and_some_get_none(dtype, tolerance):
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    lengths, places, parts = torch.tensor([3, 2, 4, 1]), torch.tensor([1, -1, 0, 1]), (6, 2)
    wrapper = SimpleNamespace(
        no_lora=False, prefill_metadata=(lengths.cumsum(0) - lengths, lengths, places, 4, 4, 10)
    )
    x, y = random(10, 5), random(10, 8)
    a = [random(2, 1, 3, 5) for _ in parts]
    b = [random(2, 1, part, 3) for part in parts]
    expected = y.double()
    for row, place in enumerate(places.repeat_interleave(lengths).tolist()):
        if place >= 0:
            updates = [
                b[part][place, 0].double() @ (a[part][place, 0].double() @ x[row].double())
                for part in range(len(parts))
            ]
            expected[row] += 2 * torch.cat(updates)
    changed = y.clone()
    add_lora_linear(wrapper, changed, x, a, b, 2.0, parts)
    torch.testing.assert_close(changed.double(), expected, rtol=tolerance, atol=tolerance)
    assert torch.equal(changed[3:5], y[3:5])


def test_a_step_without_adapters_changes_nothing():
    y = torch.ones(2, 2)
    add_lora_linear(SimpleNamespace(no_lora=True), y, y, [], [], 1.0, [])
    assert torch.equal(y, torch.ones(2, 2))
