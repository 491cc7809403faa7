import importlib.util
from pathlib import Path

import pytest

from counterhint.errors import InputError
from student_trainer.models import Student, StudentConfig, load_student
from student_trainer.rollouts.vllm_engine import VllmSamplerConfig
from student_trainer.rollouts.vllm_requests import parse_engine_arguments, with_tied
from tests.tiny_models import write_tiny_llama


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vllm is installed")
def test_without_vllm_the_message_names_the_extra(student: Student) -> None:
    with pytest.raises(InputError, match=r"pip install 'counterhint\[student-vllm\]'"):
        VllmSamplerConfig(kind="vllm").build(student)


@pytest.mark.parametrize("tied", [True, False])
def test_tied_weights_come_under_each_of_their_names(tmp_path: Path, tied: bool) -> None:
    write_tiny_llama(tmp_path, tie_word_embeddings=tied)
    model = load_student(StudentConfig(model=tmp_path, device="cpu")).model
    named = dict(with_tied(model.named_parameters(), model))
    assert named.keys() == model.state_dict().keys()
    head, embeddings = named["lm_head.weight"], named["model.embed_tokens.weight"]
    assert (head is embeddings) == tied


def test_engine_arguments_are_read_as_yaml() -> None:
    words = ["max_model_len=4096", "dtype=bfloat16", "enforce_eager=true", "override={a: [1]}"]
    assert parse_engine_arguments(words) == {
        "max_model_len": 4096,
        "dtype": "bfloat16",
        "enforce_eager": True,
        "override": {"a": [1]},
    }


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("dtype", "'dtype' is not name=value"),
        ("=3", "'=3' is not name=value"),
        ("dtype={", "the value is not YAML"),
    ],
)
def test_words_that_are_no_arguments_are_refused(word: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_engine_arguments([word])
