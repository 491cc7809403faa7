"""What a user can get wrong: a message that names the thing, exit code 2, nothing left running."""

import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from counterhint import tokenizer_fingerprint
from tests.processes import running_in, wait_until
from tests.teacher_process import serve_teacher
from tests.tiny_models import write_tiny_llama

RECIPE = Path(__file__).with_name("recipe.yaml")


def refusal(arguments: Sequence[str]) -> str:
    """What a command says when it refuses its input."""
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    _, errors = process.communicate()
    said = errors.decode()
    assert process.returncode == 2, said
    assert "Traceback" not in said
    wait_until(lambda: not running_in(process))  # the last may still be exiting
    return said


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_tiny_llama(folder)
    template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    (folder / "chat_template.jinja").write_text(template)
    return folder


@pytest.fixture
def train(model: Path, tmp_path: Path) -> list[str]:
    """The beginning of a training command whose recipe is sound."""
    return ["train", str(RECIPE), f"run_dir={tmp_path / 'run'}", f"student.model={model}"]


def test_an_unknown_recipe_key(train: list[str]) -> None:
    said = refusal([*train, "optimizer.learning_rate=1"])
    assert "optimizer.learning_rate: no such key" in said


def test_a_recipe_that_is_not_there() -> None:
    assert "nowhere.yaml" in refusal(["train", "nowhere.yaml"])


@pytest.mark.parametrize(
    "command", [["teacher", "serve", "--model", "no/such"], ["train", str(RECIPE)]]
)
def test_a_model_folder_that_is_not_there(command: list[str], tmp_path: Path) -> None:
    if command[0] == "train":
        command = [*command, f"run_dir={tmp_path / 'run'}", "student.model=no/such"]
    assert "no/such" in refusal(command)


def test_a_teacher_with_another_tokenizer(
    train: list[str], model: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    write_tiny_llama(other, vocab_size=70)
    with serve_teacher(other, tmp_path_factory.mktemp("socket")) as address:
        said = refusal([*train, f"scoring.address={address}"])
    for folder in (model, other):
        assert tokenizer_fingerprint(AutoTokenizer.from_pretrained(folder)) in said
    assert not (tmp_path / "run").exists()


def test_nobody_at_the_scoring_address(train: list[str], tmp_path: Path) -> None:
    nobody = f"scoring.address=unix://{tmp_path / 'nobody.sock'}"
    assert "nobody.sock" in refusal([*train, nobody, "scoring.connect_timeout=0.5"])


@pytest.mark.parametrize("part", ["teacher", "services"])
def test_a_port_in_use(part: str, model: Path) -> None:
    commands = {
        "teacher": ["teacher", "serve", "--model", str(model)],
        "services": ["services", "run", "intake", "dispatcher", "--teachers", "127.0.0.1:9"],
    }
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert address in refusal([*commands[part], "--listen", address])


def test_no_redis_at_its_address(tmp_path: Path) -> None:
    redis = f"unix://{tmp_path / 'nobody.sock'}"
    listen = f"unix://{tmp_path / 'intake.sock'}"
    said = refusal(
        [
            *("services", "run", "intake", "dispatcher", "--listen", listen),
            *("--teachers", "127.0.0.1:9", "--redis", redis),
        ]
    )
    assert "nobody.sock" in said


def test_groups_that_never_mix(train: list[str]) -> None:
    # Without room for an answer, every rollout is wrong.
    never = ["rollouts.max_new_tokens=1", "stop_after_unmixed_steps=2", "method.kind=grpo"]
    said = refusal([*train, *never, "evaluation.problems=1"])
    assert "no group of the last 2 steps held both right and wrong rollouts" in said


def test_a_data_file_with_a_broken_line(train: list[str], tmp_path: Path) -> None:
    file = tmp_path / "problems.jsonl"
    file.write_text('{"problem": "1 + 1", "answer": "2"}\n{"problem": "2 + 2", "answer"\n')
    task = ["task.kind=files", f"task.train={file}", "task.verifier=boxed_math"]
    said = refusal([*train, *task, "task.heldout_fraction=0.5"])
    assert f"line 2 of {file}" in said


def test_a_demo_whose_models_cannot_be_made(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.read_text().replace("examples:", "exmaples:"))
    said = refusal(["demo", "--recipe", str(recipe), "--out", str(tmp_path / "run")])
    assert "exmaples: no such key" in said
