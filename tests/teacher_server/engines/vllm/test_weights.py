"""Jobs are scored by the weights that they name, whatever else the engine does meanwhile."""

import asyncio
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file, save_model
from transformers import AutoModelForCausalLM

from counterhint import ScoringJob, Weights
from counterhint.errors import Unavailable, WeightsUnavailable
from teacher_server.engines.base import Scored
from teacher_server.engines.transformers import TransformersEngine, TransformersOptions
from teacher_server.engines.vllm import weights as vllm_weights
from teacher_server.engines.vllm.requests import pair_requests
from tests.teacher_server.adapter_files import Adapter
from tests.teacher_server.engines.vllm.setups import BLOCK, PARALLEL, WITH_WEIGHTS
from tests.teacher_server.engines.vllm.vllm_teacher import VllmTeacher
from tests.teacher_server.jobs import random_job
from tests.teacher_server.running import until

pytestmark = pytest.mark.vllm

TOLERANCE = 1e-3
ON_LLAMA = pytest.mark.parametrize("teacher", ["llama, weights"], indirect=True)
ADAPTERS = {
    "plain": {"target_modules": ["q_proj", "up_proj"]},
    "rank-stabilised": {"target_modules": ["gate_proj"], "use_rslora": True, "lora_alpha": 5},
    "patterned": {
        "target_modules": ["q_proj", "up_proj"],
        "rank_pattern": {"layers.1.mlp.up_proj": 2},
        "alpha_pattern": {"q_proj": 3},
    },
}
WHOLE = ("whole 1", "whole 2")


def publish(file: Path) -> Weights:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return Weights("run", file.stem, file.as_uri(), digest)


class Students:
    """What several students of one teacher publish, and the scores by the transformers engine."""

    def __init__(self, model: Path, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.model = model
        self.weights: dict[str, Weights | None] = {"own": None}
        for seed, (name, settings) in enumerate(ADAPTERS.items(), 1):
            self.weights[name] = Adapter(model, folder, seed, **settings).publish()
        for seed, name in enumerate(WHOLE):
            changed = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
            generator = torch.Generator().manual_seed(seed)
            with torch.no_grad():
                for parameter in changed.parameters():
                    parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
            file = folder / f"{name}.safetensors"
            save_model(changed, str(file))
            self.weights[name] = publish(file)
        self._reference = TransformersEngine(
            TransformersOptions(model, device="cpu", weights_roots=(folder,), max_loaded_weights=9)
        )

    def job(self, teacher: VllmTeacher, name: str, seed: int = 0) -> ScoringJob:
        """Contexts of whole blocks and others, several responses each."""
        pairs = [(context, response) for context in range(2) for response in range(3)] + [(2, 1)]
        job = random_job(
            (2 * BLOCK, 33, 7),
            (7, 40, 1),
            pairs,
            id=f"{name}-{seed}",
            seed=seed,
            outputs=teacher.outputs(4),
            given=3,
            vocab_size=teacher.info.vocab_size,
        )
        return replace(job, weights=self.weights[name])

    def check(self, job: ScoringJob, scored: Scored) -> None:
        """Holds scores against the transformers engine's, and the revision against the job's."""
        expected = asyncio.run(self._reference.score(job))
        assert scored.weights_revision == expected.weights_revision
        for name in ("sampled", "given", "entropy", "top_k_log_probs"):
            np.testing.assert_allclose(
                getattr(scored.scores, name),
                getattr(expected.scores, name),
                rtol=0,
                atol=TOLERANCE,
                err_msg=job.id,
            )


@pytest.fixture(scope="session")
def all_students() -> dict[Path, Students]:
    return {}


@pytest.fixture
def students(teacher: VllmTeacher, models: Path, all_students: dict[Path, Students]) -> Students:
    model = teacher.engine._options.model
    if model not in all_students:
        all_students[model] = Students(model, models / f"{model.name}-students")
    return all_students[model]


@pytest.fixture(autouse=True)
def as_before(teacher: VllmTeacher, students: Students) -> Iterator[None]:
    """Whatever a test did, the engine scores by its own weights afterwards."""
    yield
    job = students.job(teacher, "own")
    students.check(job, *teacher.score(job))


@pytest.mark.parametrize("teacher", [*WITH_WEIGHTS, *PARALLEL], indirect=True)
def test_named_weights_score_as_in_transformers(teacher, students):
    scores = {}
    for name in ("own", *ADAPTERS, *WHOLE, "own", "plain", WHOLE[0], "patterned"):
        job = students.job(teacher, name)
        (scored,) = teacher.score(job)
        students.check(job, scored)
        scores[name] = scored.scores.sampled
        replicas = {teacher.engine._rank_of(request) for request in pair_requests(job)}
        assert len(replicas) == teacher.engine._ranks
    for name in (*ADAPTERS, *WHOLE):
        assert np.abs(scores[name] - scores["own"]).max() > 0.1


@ON_LLAMA
def test_the_prefix_cache_never_crosses_weights(teacher, students):
    job = random_job((4 * BLOCK,), (9,), [(0, 0)], seed=99)
    whole = job.tokens_computed

    def computed(name: str) -> int:
        (scored,) = teacher.score(replace(job, weights=students.weights[name]))
        return scored.tokens_computed

    assert [computed(name) for name in ("own", "plain", "patterned", WHOLE[0])] == [whole] * 4
    cached = computed(WHOLE[0])
    assert cached <= whole - 3 * BLOCK
    assert computed("own") == whole
    assert [computed(name) for name in ("own", "plain", "own")] == [cached, whole, cached]


@ON_LLAMA
def test_jobs_of_several_runs_at_once_are_each_scored_by_their_weights(teacher, students):
    order = np.random.default_rng(0).permutation([*students.weights] * 4).tolist()
    jobs = [students.job(teacher, name, seed) for seed, name in enumerate(order)]
    for job, scored in zip(jobs, teacher.score(*jobs), strict=True):
        students.check(job, scored)


@ON_LLAMA
def test_no_more_adapters_are_held_than_allowed(teacher, students):
    engine = teacher.engine

    async def adapters() -> list[int]:
        return await engine._llm.list_loras()

    for name in (*ADAPTERS, *ADAPTERS):
        teacher.score(students.job(teacher, name))
        held = teacher.loop.run(adapters())
        assert len(held) <= 2
        assert {int(path.name) for path in engine._weights._folder.iterdir()} == set(held)


def damaged(students: Students, damage: str) -> Weights:
    """Weights that cannot be used, `damage` says why."""
    folder = students.folder / "damaged"
    folder.mkdir(exist_ok=True)
    good = students.weights["whole 1"]
    assert good is not None
    if damage == "elsewhere":
        return replace(good, uri="file:///outside/x.safetensors")
    if damage == "gone":
        return replace(good, uri=(folder / "gone.safetensors").as_uri())
    if damage == "other content":
        return replace(good, sha256="0" * 64)
    file = folder / f"{damage}.safetensors"
    if damage == "no safetensors":
        file.write_bytes(b"no safetensors at all")
        return publish(file)
    settings = {
        "rank above the limit": {"r": 17},
        "adapter of the head": {"target_modules": ["lm_head"]},
        "another method": {"use_dora": True},
    }
    if damage in settings:
        return Adapter(students.model, folder, **settings[damage]).publish()
    if damage == "adapter of another base":
        adapter = Adapter(students.model, folder)
        adapter.tensors = {name: t[:, :-1].contiguous() for name, t in adapter.tensors.items()}
        return adapter.publish()
    tensors = load_file(students.folder / "whole 1.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    if damage == "tensor missing":
        del tensors[name]
    elif damage == "tensor unknown":
        tensors["model.layers.7.mlp.up_proj.weight"] = tensors[name].clone()
    else:
        tensors[name] = tensors[name][:-1].contiguous()
    save_file(tensors, file)
    return publish(file)


@ON_LLAMA
@pytest.mark.parametrize(
    ("damage", "reason", "text"),
    [
        ("elsewhere", "WEIGHTS_NOT_ALLOWED", "--weights-root /outside"),
        ("gone", "WEIGHTS_NOT_FOUND", "does not exist"),
        ("other content", "WEIGHTS_HASH_MISMATCH", "has sha256"),
        ("no safetensors", "WEIGHTS_INCOMPATIBLE", "not a safetensors file"),
        ("rank above the limit", "WEIGHTS_INCOMPATIBLE", "--engine-arg max_lora_rank=32"),
        ("adapter of the head", "WEIGHTS_INCOMPATIBLE", "lm_head"),
        ("another method", "WEIGHTS_INCOMPATIBLE", "use_dora"),
        ("adapter of another base", "WEIGHTS_INCOMPATIBLE", "adapter_config want"),
        ("tensor missing", "WEIGHTS_INCOMPATIBLE", "layers.1.mlp.up_proj.weight is not in"),
        ("tensor unknown", "WEIGHTS_INCOMPATIBLE", "layers.7.mlp.up_proj.weight is not in"),
        ("tensor cut", "WEIGHTS_INCOMPATIBLE", "but the teacher's is"),
    ],
)
def test_unusable_weights_fail_their_job_alone(teacher, students, damage, reason, text):
    held = list(teacher.engine._weights._adapters.held)
    job = replace(students.job(teacher, "own"), weights=damaged(students, damage))
    with pytest.raises(WeightsUnavailable) as refused:
        teacher.score(job)
    assert refused.value.reason == reason
    assert text in refused.value.message
    assert list(teacher.engine._weights._adapters.held) == held
    assert list(teacher.engine._weights._base.held) == [None]


@pytest.mark.parametrize("teacher", ["qwen3, weights"], indirect=True)
def test_an_adapter_is_refused_where_vllm_would_leave_a_layer_out(teacher, students):
    """vLLM says nothing when `lora_target_modules` leaves out a layer that has weights."""
    folder = students.folder / "left-out"
    folder.mkdir()
    adapter = Adapter(students.model, folder, target_modules=["q_proj", "down_proj"])
    job = replace(students.job(teacher, "own"), weights=adapter.publish())
    with pytest.raises(WeightsUnavailable, match=r"no adapter at model.layers.0.mlp.down_proj"):
        teacher.score(job)


@ON_LLAMA
def test_a_load_that_fails_halfway_is_undone_before_anything_is_scored(
    teacher, students, monkeypatch
):
    fit = vllm_weights.fit_to_model

    def leave_one_out(*args):
        fitted = fit(*args)
        del fitted["model.layers.0.self_attn.o_proj.weight"]
        return fitted

    monkeypatch.setattr(vllm_weights, "fit_to_model", leave_one_out)
    with pytest.raises(WeightsUnavailable, match="no weights came for"):
        teacher.score(students.job(teacher, "whole 2"))
    monkeypatch.undo()
    for name in ("plain", "whole 2"):
        job = students.job(teacher, name)
        students.check(job, *teacher.score(job))


@ON_LLAMA
def test_the_servers_own_weights_must_be_what_they_were(teacher, students):
    teacher.score(students.job(teacher, "whole 1"))
    added = students.model / "added.safetensors"
    save_file({"x": torch.zeros(1)}, added)
    try:
        with pytest.raises(Unavailable, match="was changed since the start"):
            teacher.score(students.job(teacher, "own"))
    finally:
        added.unlink()


@ON_LLAMA
def test_a_check_leaves_the_weights_that_are_held(teacher, students):
    for name in ("whole 1", "own"):
        teacher.score(students.job(teacher, name))
        steps = teacher.engine._weights.steps
        checked = teacher.loop.run(teacher.engine.check())
        assert teacher.engine._weights.steps == steps
        wanted = students.weights[name]
        assert checked.weights_revision == (
            wanted.revision if wanted else teacher.info.weights_revision
        )
        assert np.isfinite(checked.scores.sampled).all()


@ON_LLAMA
def test_a_job_that_is_cancelled_while_it_waits_changes_nothing(teacher, students):
    engine = teacher.engine

    async def cancel_while_waiting() -> Scored:
        async with engine._weights.use(None):
            waiting = []
            for number, name in enumerate(("whole 1", "own"), 1):
                waiting.append(asyncio.create_task(engine.score(students.job(teacher, name))))
                await until(lambda: len(engine._weights._base._turns._waiting) == number)  # noqa: B023
            waiting[0].cancel()
            return await waiting[1]

    students.check(students.job(teacher, "own"), teacher.loop.run(cancel_while_waiting()))
    assert list(engine._weights._base.held) == [None]
