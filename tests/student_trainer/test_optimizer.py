import pytest
import torch

from student_trainer.optimizer import GradientNotFinite, Optimizer, OptimizerConfig


def make_optimizer(**settings: object) -> Optimizer:
    config = OptimizerConfig.model_validate({"lr": 0.1, **settings})
    return Optimizer(config, {"w": torch.nn.Parameter(torch.ones(3))}, total_steps=10)


def test_warm_up_then_schedule() -> None:
    rates = [make_optimizer(warmup_steps=4).learning_rate(step) for step in range(6)]
    assert rates == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1])
    linear = make_optimizer(schedule="linear", warmup_steps=2, final_lr_share=0.5)
    assert linear.learning_rate(2) == pytest.approx(0.1)
    assert linear.learning_rate(6) == pytest.approx(0.075)
    cosine = make_optimizer(schedule="cosine")
    assert cosine.learning_rate(5) == pytest.approx(0.05)
    assert cosine.learning_rate(9) < 0.01


def test_the_norm_is_that_before_clipping() -> None:
    optimizer = make_optimizer(grad_clip=1.0)
    optimizer.parameters["w"].grad = torch.tensor([3.0, 0.0, 4.0])
    assert optimizer.update(0) == pytest.approx(5.0)
    assert optimizer.parameters["w"].grad is None


def test_a_gradient_that_is_not_finite_stops_the_run() -> None:
    optimizer = make_optimizer()
    optimizer.parameters["w"].grad = torch.tensor([1.0, torch.nan, 0.0])
    with pytest.raises(GradientNotFinite, match="step 4: the norm of the gradient is nan") as found:
        optimizer.update(3)
    assert found.value.reason == "GRADIENT_NOT_FINITE"
    assert torch.equal(optimizer.parameters["w"], torch.ones(3))


def test_state_goes_on_as_if_nothing_had_happened() -> None:
    def steps(optimizer: Optimizer, first: int, last: int) -> None:
        for step in range(first, last):
            optimizer.parameters["w"].grad = torch.arange(3.0) + step
            optimizer.update(step)

    whole, half, resumed = make_optimizer(), make_optimizer(), make_optimizer()
    steps(whole, 0, 6)
    steps(half, 0, 3)
    with torch.no_grad():
        resumed.parameters["w"].copy_(half.parameters["w"])
        for name, value in half.state_tensors().items():
            resumed.state_tensors()[name].copy_(value)
    steps(resumed, 3, 6)
    assert torch.equal(whole.parameters["w"], resumed.parameters["w"])
