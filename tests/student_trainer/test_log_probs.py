import pytest
import torch

from counterhint.errors import InputError
from student_trainer import log_probs
from student_trainer.log_probs import check_head, response_log_probs
from student_trainer.models import Student

LENGTHS = torch.tensor([9, 5, 7])


def make_rows() -> tuple[torch.Tensor, torch.Tensor]:
    """Ids `[3, 9]` padded with garbage, and the response mask with prompts of 3 tokens."""
    ids = torch.randint(3, 40, (3, 9), generator=torch.Generator().manual_seed(0))
    positions = torch.arange(9)
    return ids, (positions >= 3) & (positions < LENGTHS[:, None])


def row_by_row(student: Student, ids: torch.Tensor, temperature: float) -> torch.Tensor:
    pieces = []
    for row, length in zip(ids, LENGTHS.tolist(), strict=True):
        logits = student.model(row[None, :length]).logits[0, 2:-1] / temperature
        pieces.append(logits.log_softmax(-1).gather(1, row[3:length, None])[:, 0])
    return torch.cat(pieces)


@pytest.mark.parametrize("chunk_logits", [2**24, 100])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_matches_one_forward_pass_a_row(
    student: Student, monkeypatch: pytest.MonkeyPatch, chunk_logits: int, temperature: float
) -> None:
    monkeypatch.setattr(log_probs, "CHUNK_LOGITS", chunk_logits)
    ids, mask = make_rows()
    ours = response_log_probs(student.model, ids, LENGTHS, mask, temperature)
    theirs = row_by_row(student, ids, temperature)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    weight = student.model.get_output_embeddings().weight
    (ours_gradient,) = torch.autograd.grad(ours.sum(), weight)
    (theirs_gradient,) = torch.autograd.grad(theirs.sum(), weight)
    torch.testing.assert_close(ours_gradient, theirs_gradient, atol=1e-4, rtol=1e-4)


def test_models_that_scale_their_logits_are_refused(student: Student) -> None:
    check_head(student.model)
    forward = student.model.forward

    def scaled(*args: object, **kwargs: object) -> object:
        output = forward(*args, **kwargs)
        output.logits = output.logits * 0.5
        return output

    student.model.forward = scaled
    with pytest.raises(InputError, match="LlamaForCausalLM scales or caps"):
        check_head(student.model)
