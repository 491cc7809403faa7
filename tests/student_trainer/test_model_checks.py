from pathlib import Path

import pytest
from transformers import Gemma2Config, GraniteConfig, PreTrainedConfig

from counterhint.errors import InputError
from student_trainer.log_probs import LogitMap
from student_trainer.model_checks import check_model
from student_trainer.models import Student
from tests.student_trainer.tiny_configs import ATTENTION, MIXING, SIZE
from tests.tiny_models import write_model


@pytest.mark.parametrize("config", ATTENTION.values(), ids=ATTENTION)
def test_models_that_keep_rows_apart_may_be_packed(
    tmp_path: Path, config: PreTrainedConfig
) -> None:
    check_model(write_model(tmp_path, config), packing=True)


@pytest.mark.parametrize("config", MIXING.values(), ids=MIXING)
def test_packing_is_refused_where_rows_would_see_each_other(
    tmp_path: Path, config: PreTrainedConfig
) -> None:
    model = write_model(tmp_path, config)
    check_model(model, packing=False)
    with pytest.raises(InputError, match="does not keep the rows of one sequence apart"):
        check_model(model, packing=True)


def test_scaled_and_capped_logits_are_known(tmp_path: Path) -> None:
    gemma = write_model(tmp_path, Gemma2Config(**SIZE, head_dim=8, final_logit_softcapping=1.5))
    assert LogitMap.of(gemma, 1.0).soft_cap == 1.5
    check_model(gemma, packing=False)
    granite = write_model(tmp_path, GraniteConfig(**SIZE, logits_scaling=4.0))
    assert LogitMap.of(granite, 1.0).factor == 0.25
    check_model(granite, packing=False)


def test_other_maps_of_the_logits_are_refused(student: Student) -> None:
    check_model(student.model, packing=False)
    forward = student.model.forward

    def scaled(*args: object, **kwargs: object) -> object:
        output = forward(*args, **kwargs)
        output.logits = output.logits * 0.5
        return output

    student.model.forward = scaled
    with pytest.raises(InputError, match="LlamaForCausalLM does more"):
        check_model(student.model, packing=False)
