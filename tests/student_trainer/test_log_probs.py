import pytest
import torch
from torch import Tensor, nn

from student_trainer import log_probs
from student_trainer.log_probs import LogitMap, TokenScores, token_scores

VOCAB, HIDDEN, COUNT, SUPPORT = 23, 6, 9, 4
PLAIN = LogitMap()
CAPPED = LogitMap(factor=1.5, soft_cap=2.0, temperature=0.7)


@pytest.fixture(params=[1, 4, 100], ids="{}-rows-a-chunk".format)
def rows_a_chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_probs, "CHUNK_BYTES", 4 * VOCAB * request.param)


def make_inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, nn.Linear, Tensor, Tensor]:
    """Hidden states, head, targets and support ids."""
    generator = torch.Generator().manual_seed(0)
    head = nn.Linear(HIDDEN, VOCAB, dtype=dtype)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    hidden = torch.randn(COUNT, HIDDEN, generator=generator, dtype=torch.float64).to(dtype)
    targets = torch.randint(VOCAB, (COUNT,), generator=generator)
    support = torch.rand(COUNT, VOCAB, generator=generator).topk(SUPPORT).indices
    return hidden.requires_grad_(), head, targets, support


def naive_scores(
    hidden: Tensor, head: nn.Linear, targets: Tensor, support_ids: Tensor, logit_map: LogitMap
) -> TokenScores:
    logits = head(hidden) * logit_map.factor
    if logit_map.soft_cap is not None:
        logits = torch.tanh(logits / logit_map.soft_cap) * logit_map.soft_cap
    all_log_probs = (logits.float() / logit_map.temperature).log_softmax(-1)
    if hidden.dtype == torch.float64:
        all_log_probs = (logits / logit_map.temperature).log_softmax(-1)
    return TokenScores(
        all_log_probs.gather(1, targets[:, None])[:, 0],
        all_log_probs.gather(1, support_ids),
        -(all_log_probs.exp() * all_log_probs).sum(-1),
    )


def gradients(scores: TokenScores, *wanted: Tensor) -> tuple[Tensor, ...]:
    """Gradients of a sum in which every number has its own weight."""
    total = torch.zeros(())
    for part in scores:
        if part is not None:
            weights = torch.linspace(-1.0, 2.0, part.numel(), dtype=part.dtype)
            total = total + (part * weights.reshape(part.shape)).sum()
    return torch.autograd.grad(total, wanted)


@pytest.mark.parametrize("logit_map", [PLAIN, CAPPED], ids=["plain", "capped"])
@pytest.mark.usefixtures("rows_a_chunk")
def test_scores_and_gradients_match_the_whole_softmax(logit_map: LogitMap) -> None:
    hidden, head, targets, support = make_inputs()
    ours = token_scores(hidden, head, targets, support, entropy=True, logit_map=logit_map)
    theirs = naive_scores(hidden, head, targets, support, logit_map)
    torch.testing.assert_close(tuple(ours), tuple(theirs))
    wanted = (hidden, head.weight, head.bias)
    torch.testing.assert_close(gradients(ours, *wanted), gradients(theirs, *wanted))


@pytest.mark.parametrize(
    "outputs", [("sampled",), ("support",), ("entropy",), ("sampled", "entropy")]
)
def test_outputs_that_the_loss_does_not_use_cost_it_nothing(outputs: tuple[str, ...]) -> None:
    hidden, head, targets, support = make_inputs()
    ours = token_scores(hidden, head, targets, support, entropy=True, logit_map=CAPPED)
    theirs = naive_scores(hidden, head, targets, support, CAPPED)
    found = [
        torch.autograd.grad(sum(getattr(s, name).square().sum() for name in outputs), hidden)
        for s in (ours, theirs)
    ]
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("logit_map", [PLAIN, CAPPED], ids=["plain", "capped"])
@pytest.mark.usefixtures("rows_a_chunk")
def test_gradcheck(logit_map: LogitMap) -> None:
    hidden, head, targets, support = make_inputs()

    def scores(hidden: Tensor) -> TokenScores:
        return token_scores(hidden, head, targets, support, entropy=True, logit_map=logit_map)

    assert torch.autograd.gradcheck(scores, (hidden,))


def test_what_is_not_asked_for_is_none() -> None:
    hidden, head, targets, support = make_inputs()
    scores = token_scores(hidden, head, targets, logit_map=PLAIN)
    assert scores.support is scores.entropy is None
    none = token_scores(hidden, head, targets, support[:, :0], logit_map=PLAIN)
    assert none.support is not None
    assert none.support.shape == (COUNT, 0)


def test_a_frozen_head_gets_no_gradient() -> None:
    hidden, head, targets, support = make_inputs()
    head.requires_grad_(False)
    token_scores(hidden, head, targets, support, logit_map=PLAIN).sampled.sum().backward()
    assert head.weight.grad is None
    assert hidden.grad is not None
    theirs = naive_scores(hidden, head, targets, support, PLAIN).sampled.sum()
    torch.testing.assert_close(hidden.grad, torch.autograd.grad(theirs, hidden)[0])


def test_autocast_multiplies_in_bfloat16_and_adds_up_in_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hidden, head, targets, support = make_inputs(torch.float32)
    results = []
    for chunk in (2**20, 4 * VOCAB):
        monkeypatch.setattr(log_probs, "CHUNK_BYTES", chunk)
        with torch.autocast("cpu", torch.bfloat16):
            ours = token_scores(hidden, head, targets, support, entropy=True, logit_map=PLAIN)
        results.append((*ours, *gradients(ours, hidden, head.weight, head.bias)))
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(hidden)
    assert logits.dtype == torch.bfloat16
    whole, by_rows = results
    expected = logits.float().log_softmax(-1).gather(1, targets[:, None])[:, 0]
    # The bias is added in float32, which rounds less than in bfloat16.
    torch.testing.assert_close(whole[0], expected, atol=0.05, rtol=0)
    for tensor in whole:
        assert tensor.dtype == torch.float32
    torch.testing.assert_close(whole, by_rows, atol=0.02, rtol=0.02)
