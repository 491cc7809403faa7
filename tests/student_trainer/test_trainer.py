"""The whole training loop, against a real teacher server."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from counterhint import CounterhintError
from counterhint.errors import InputError
from student_trainer.monitors import read_rows
from student_trainer.recipe import Recipe
from student_trainer.trainer import Trainer
from tests.teacher_process import serve_teacher
from tests.tiny_models import write_tiny_llama

HINT = "{{problem}} reference {{hint}} end"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trainer")


@pytest.fixture(scope="module")
def teacher(student_folder: Path, workplace: Path) -> Iterator[str]:
    roots = ("--weights-root", str(workplace))
    with serve_teacher(student_folder, workplace, roots) as address:
        yield address


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_recipe(run_dir: Path, model: Path, **settings: Any) -> Recipe:
    template = run_dir.parent / "hint.txt"
    template.write_text(HINT)
    recipe: dict[str, Any] = {
        "run_dir": run_dir,
        "steps": 4,
        "task": {"kind": "chain", "operations": 2},
        "student": {"model": model, "device": "cpu"},
        "prompts": {"hint_template": str(template)},
        # A random model answers rarely: groups are large, so that some are mixed.
        "rollouts": {"prompts_per_step": 3, "group_size": 32, "max_new_tokens": 60, "max_rows": 32},
        "method": {"kind": "rlcsd"},
        "optimizer": {"lr": 1e-3},
        "evaluation": {"problems": 8, "every": 2},
        "checkpoint": {"every": 1, "keep": 4},
        "teacher_refresh": {"kind": "snapshot", "every": 2},
        "report": {"every": 1},
    }
    return Recipe.model_validate(recipe | settings)


def parameters_of(run_dir: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(run_dir / "checkpoints" / f"step-{step:06d}" / "model.safetensors")


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_from_end_to_end(teacher: str, student_folder: Path, workplace: Path) -> None:
    run_dir = workplace / "whole"
    recipe = make_recipe(run_dir, student_folder, scoring={"address": teacher})
    with Trainer(recipe) as trainer:
        summary = trainer.run()
    assert json.loads((run_dir / "summary.json").read_text()) == summary
    assert summary["groups_scored"] > 0
    assert 0 < summary["tokens_computed"] < summary["tokens_naive"]
    assert 0 <= summary["scoring_wait_share"] < 1
    rows = read_rows(run_dir / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row["step"] for row in rows if "eval/accuracy" in row] == [0, 2, 4]
    scored = [row for row in rows if row.get("scoring/groups")]
    assert all(row["hints/coverage"] > 0 and row["signal/contrast_abs"] > 0 for row in scored)
    published = sorted(file.name for file in (run_dir / "weights").iterdir())
    assert published == ["step-000002.safetensors", "step-000004.safetensors"]
    kept = read_rows(run_dir / "rollouts.jsonl")
    assert kept
    for row in kept:
        lengths = {len(row[key]) for key in ("tokens", "student", "correct_hint", "e_c", "e_ctr")}
        assert lengths == {len(row["token_ids"])}
        assert row["hint_texts"]["correct"] not in row["hint_texts"]["wrong"]
    assert not same(parameters_of(run_dir, 1), parameters_of(run_dir, 4))


def test_a_resumed_run_ends_where_an_undisturbed_one_does(
    teacher: str, student_folder: Path, workplace: Path
) -> None:
    undisturbed, stopped = workplace / "undisturbed", workplace / "stopped"
    settings: dict[str, Any] = {"scoring": {"address": teacher}}
    with Trainer(make_recipe(undisturbed, student_folder, **settings)) as trainer:
        trainer.run()

    class Killed(BaseException):
        pass

    with Trainer(make_recipe(stopped, student_folder, **settings)) as trainer:
        # Ends the run in the middle of step 4, after the teacher was refreshed.
        send = trainer._collector._send

        def killed_in_step_4(step: int, *rest: Any) -> Any:
            if step == 3:
                raise Killed
            return send(step, *rest)

        trainer._collector._send = killed_in_step_4  # type: ignore[method-assign]
        with pytest.raises(Killed):
            trainer.run()
    with pytest.raises(InputError, match="already holds a run"):
        Trainer(make_recipe(stopped, student_folder, **settings))
    with Trainer(make_recipe(stopped, student_folder, resume=True, **settings)) as trainer:
        trainer.run()
    assert same(parameters_of(undisturbed, 4), parameters_of(stopped, 4))
    first, second = (read_rows(run / "metrics.jsonl") for run in (undisturbed, stopped))
    assert [row["step"] for row in second] == [0, 1, 2, 3, 4]
    for a, b in zip(first, second, strict=True):
        timed = ("time", "time/", "scoring/wait")
        assert {k: v for k, v in a.items() if not k.startswith(timed)} == {
            k: v for k, v in b.items() if not k.startswith(timed)
        }


def test_cutting_into_micro_batches_changes_nothing(
    teacher: str, student_folder: Path, workplace: Path
) -> None:
    after = []
    for tokens in (100_000, 200):
        run_dir = workplace / f"cut-{tokens}"
        recipe = make_recipe(
            run_dir,
            student_folder,
            steps=1,
            scoring={"address": teacher},
            batch={"micro_batch_tokens": tokens},
            optimizer={"lr": 1e-3, "eps": 1.0},  # AdamW would blow up differences in tiny gradients
        )
        with Trainer(recipe) as trainer:
            trainer.run()
        after.append(parameters_of(run_dir, 1))
    for name, value in after[0].items():
        # A step moves weights by some 1e-5; two float32 about 1 are 1.2e-7 apart.
        torch.testing.assert_close(value, after[1][name], rtol=0, atol=3e-7)


@pytest.mark.parametrize(
    "method",
    [
        {"kind": "rlcsd"},
        {"kind": "opsd", "top_k_distill": 8},
        {"kind": "sdpo", "top_k_distill": 8},
        {"kind": "srpo", "top_k_distill": 8},
        {"kind": "rlsd"},
        {"kind": "opsd_ectr", "top_k_distill": 8},
        {"kind": "rlsd_ectr"},
        {"kind": "opd", "mode": "policy_gradient"},
        {"kind": "opd", "mode": "supervised", "top_k_distill": 8},
        {"kind": "opd", "mode": "reverse_kl", "top_k_distill": 8, "task_reward": 0.5},
        {"kind": "opd", "mode": "jsd", "top_k_distill": 8},
    ],
    ids=lambda method: "-".join(map(str, [method["kind"], method.get("mode", "")])).strip("-"),
)
def test_every_method_trains(
    method: dict[str, Any], teacher: str, student_folder: Path, workplace: Path
) -> None:
    run_dir = workplace / "-".join(map(str, method.values()))
    recipe = make_recipe(
        run_dir,
        student_folder,
        steps=2,
        method=method,
        scoring={"address": teacher},
        hints={"without_hint": "plain"},
        teacher_refresh={"kind": "live"},
        batch={"micro_batch_tokens": 2000, "packing": True},
        evaluation={"problems": 2},
        metrics={"signals": True},
    )
    with Trainer(recipe) as trainer:
        trainer.run()
    rows = [row for row in read_rows(run_dir / "metrics.jsonl") if row.get("scoring/groups")]
    assert rows
    assert all(row["optim/grad_norm"] > 0 for row in rows)
    assert all(row["signal/one_sided_abs"] > 0 for row in rows)
    assert not same(parameters_of(run_dir, 2), load_file(student_folder / "model.safetensors"))


def test_grpo_needs_no_teacher(student_folder: Path, workplace: Path) -> None:
    recipe = make_recipe(
        workplace / "grpo",
        student_folder,
        method={"kind": "grpo"},
        scoring={"address": "unix:///nowhere"},
        batch={"updates_per_step": 2},
        steps=2,
        evaluation={"problems": 2},
    )
    with Trainer(recipe) as trainer:
        summary = trainer.run()
    assert (summary["method"], summary["groups_scored"]) == ("grpo", 0)


def test_bfloat16_trains_float32_weights(student_folder: Path, workplace: Path) -> None:
    recipe = make_recipe(
        workplace / "bfloat16",
        student_folder,
        student={"model": student_folder, "device": "cpu", "dtype": "bfloat16"},
        method={"kind": "grpo"},
        steps=2,
        evaluation={"problems": 2},
    )
    with Trainer(recipe) as trainer:
        trainer.run()
    saved = parameters_of(workplace / "bfloat16", 2)
    assert {value.dtype for value in saved.values()} == {torch.float32}
    assert not same(saved, load_file(student_folder / "model.safetensors"))


def test_groups_that_never_mix_end_the_run(student_folder: Path, workplace: Path) -> None:
    recipe = make_recipe(
        workplace / "unmixed",
        student_folder,
        method={"kind": "grpo"},
        rollouts={"prompts_per_step": 1, "group_size": 2, "max_new_tokens": 1},
        stop_after_unmixed_steps=2,
    )
    with Trainer(recipe) as trainer, pytest.raises(InputError, match=r"last 2 steps .* easier"):
        trainer.run()


def test_another_tokenizer_is_refused(
    teacher: str, workplace: Path, tmp_path: Path, student_folder: Path
) -> None:
    other = tmp_path / "other"
    write_tiny_llama(other)
    (other / "chat_template.jinja").write_text("{{ messages[0].content }}")
    recipe = make_recipe(workplace / "mismatch", other, scoring={"address": teacher})
    with pytest.raises(CounterhintError) as caught:
        Trainer(recipe)
    assert caught.value.reason == "TOKENIZER_MISMATCH"
    assert not (workplace / "mismatch" / "metrics.jsonl").exists()


def test_a_student_whose_weights_the_teacher_cannot_load_is_refused_at_the_start(
    student_folder: Path, workplace: Path, teacher: str
) -> None:
    larger = workplace / "larger-vocabulary"
    shutil.copytree(student_folder, larger)
    model = AutoModelForCausalLM.from_pretrained(larger)
    size = model.config.vocab_size
    model.resize_token_embeddings(size + 8)
    model.save_pretrained(larger)
    scoring = {"address": teacher}
    said = rf"kind is snapshot, .* vocabulary of {size + 8}, .* one of {size}, .*kind=fixed"
    with pytest.raises(InputError, match=said):
        Trainer(make_recipe(workplace / "unloadable", larger, scoring=scoring))


def test_an_absent_teacher_is_named(student_folder: Path, workplace: Path) -> None:
    scoring = {"address": "unix:///nowhere", "connect_timeout": 0.5}
    with pytest.raises(InputError, match=r"scoring\.address: .* unix:///nowhere .* teacher serve"):
        Trainer(make_recipe(workplace / "absent", student_folder, scoring=scoring))


def test_a_run_can_be_resumed_from_any_kept_checkpoint(
    teacher: str, student_folder: Path, workplace: Path
) -> None:
    """Weights are published more often than checkpoints are made."""
    run_dir = workplace / "published-often"
    settings: dict[str, Any] = {
        "scoring": {"address": teacher},
        "teacher_refresh": {"kind": "snapshot", "every": 1},
        "checkpoint": {"every": 2, "keep": 2},
        "evaluation": {"problems": 2},
    }
    with Trainer(make_recipe(run_dir, student_folder, steps=5, **settings)) as trainer:
        trainer.run()
    shutil.rmtree(run_dir / "checkpoints" / "step-000005")  # as if killed before it
    recipe = make_recipe(run_dir, student_folder, steps=5, resume=True, **settings)
    with Trainer(recipe) as trainer:
        assert trainer.run()["steps"] == 5
    assert [row["step"] for row in read_rows(run_dir / "metrics.jsonl")] == list(range(6))


def test_a_run_goes_on_by_its_own_rules_only(student_folder: Path, workplace: Path) -> None:
    run_dir = workplace / "rules"
    settings: dict[str, Any] = {"method": {"kind": "grpo"}, "steps": 2}
    with Trainer(make_recipe(run_dir, student_folder, **settings)) as trainer:
        trainer.run()
    settings["resume"] = True
    with pytest.raises(InputError, match=r"seed \(0 → 5\)"):
        Trainer(make_recipe(run_dir, student_folder, seed=5, **settings))
    with pytest.raises(InputError, match="steps is 1, but the run has taken 2"):
        Trainer(make_recipe(run_dir, student_folder, **{**settings, "steps": 1}))
    with Trainer(make_recipe(run_dir, student_folder, **{**settings, "steps": 3})) as trainer:
        assert trainer.run()["steps"] == 3


def test_rollouts_without_hints_end_the_run(
    teacher: str, student_folder: Path, workplace: Path
) -> None:
    recipe = make_recipe(
        workplace / "hintless",
        student_folder,
        scoring={"address": teacher},
        # One in some thirty is right: never two of three.
        rollouts={"prompts_per_step": 16, "group_size": 3, "max_new_tokens": 60},
        stop_after_unmixed_steps=2,
    )
    with Trainer(recipe) as trainer, pytest.raises(InputError, match="nothing to learn from"):
        trainer.run()


def test_responses_that_could_outgrow_the_student_are_refused(
    student_folder: Path, workplace: Path
) -> None:
    recipe = make_recipe(
        workplace / "outgrown",
        student_folder,
        method={"kind": "grpo"},
        rollouts={"prompts_per_step": 1, "group_size": 2, "max_new_tokens": 100_000},
    )
    with Trainer(recipe) as trainer, pytest.raises(InputError, match="takes at most"):
        trainer.run()


@pytest.mark.parametrize("damage", ["weights", "tokenizer", "device"])
def test_a_student_that_cannot_be_loaded_is_named(
    damage: str, student_folder: Path, workplace: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "student"
    shutil.copytree(student_folder, folder)
    if damage == "weights":
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "tokenizer":
        for file in folder.glob("tokenizer*"):
            file.unlink()
    device = "nowhere" if damage == "device" else "cpu"
    recipe = make_recipe(workplace / "damaged", folder, student={"model": folder, "device": device})
    with pytest.raises(InputError, match=r"student\.(model|device): .* cannot be"):
        Trainer(recipe)


def test_a_run_that_failed_at_its_start_leaves_its_folder_free(
    student_folder: Path, workplace: Path
) -> None:
    run_dir = workplace / "failed-start"
    settings: dict[str, Any] = {"method": {"kind": "grpo"}, "steps": 1}
    too_long = {"prompts_per_step": 1, "group_size": 2, "max_new_tokens": 100_000}
    with (
        Trainer(make_recipe(run_dir, student_folder, rollouts=too_long, **settings)) as trainer,
        pytest.raises(InputError, match="takes at most"),
    ):
        trainer.run()
    with Trainer(make_recipe(run_dir, student_folder, **settings)) as trainer:
        assert trainer.run()["steps"] == 1
