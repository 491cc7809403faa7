import asyncio
import hashlib
import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file, save_model
from transformers import Gemma2Config

from counterhint import ScoringJob, Weights
from counterhint.errors import EngineFailure, InputError, WeightsUnavailable
from counterhint.validation import validate_job
from teacher_server.engines import transformers as module
from teacher_server.engines.transformers import TransformersEngine, TransformersOptions
from tests.teacher_server.jobs import SMALL, plain_log_probs, random_job, tokens_of_pairs
from tests.teacher_server.running import until
from tests.tiny_models import write_model, write_tiny_llama, write_tokenizer


def make(folder: Path, **options: object) -> TransformersEngine:
    return TransformersEngine(TransformersOptions(folder, device="cpu", **options))  # type: ignore[arg-type]


def expected(model: torch.nn.Module, job: ScoringJob) -> np.ndarray:
    tokens = tokens_of_pairs(job)
    return plain_log_probs(model, job)[np.arange(len(tokens)), tokens]


def test_a_teacher_is_described_by_its_folder(engine, model_folder):
    info = engine.info
    assert (info.model_id, info.engine) == ("tiny", "transformers")
    assert (info.vocab_size, info.max_model_len, info.max_top_k) == (64, 256, 64)
    assert len(info.tokenizer_fingerprint) == 64
    assert info.weights_revision == make(model_folder, model_id="other").info.weights_revision
    named = make(model_folder, model_id="other", max_model_len=99).info
    assert (named.model_id, named.max_model_len) == ("other", 99)


def test_ids_that_the_model_has_beyond_its_tokenizer_are_scored(tmp_path):
    """Most models have more rows than tokens, and those have probabilities as well."""
    write_tiny_llama(tmp_path, vocab_size=80)
    write_tokenizer(tmp_path, vocab_size=70)
    engine = make(tmp_path)
    assert engine.info.vocab_size == 80
    job = random_job(**SMALL, vocab_size=80)
    validate_job(replace(job, tokenizer_fingerprint=engine.info.tokenizer_fingerprint), engine.info)
    assert any(tokens.max() >= 70 for tokens in job.responses)
    scores = asyncio.run(engine.score(job)).scores
    np.testing.assert_allclose(scores.sampled, expected(engine.model, job), atol=1e-4)


def test_named_weights_of_two_revisions_take_turns(engine, tmp_path):
    jobs, models = [], []
    for seed in (1, 2):
        model = write_tiny_llama(tmp_path / str(seed), seed=seed)
        file = tmp_path / f"{seed}.safetensors"
        save_model(model, str(file))
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        weights = Weights("run", f"step-{seed}", file.as_uri(), digest)
        jobs.append(random_job(**SMALL, weights=weights))
        models.append(model)
    jobs.append(random_job(**SMALL))
    models.append(engine.model)

    async def score_by_turns() -> None:
        for _ in range(2):
            for job, model in zip(jobs, models, strict=True):
                scored = await engine.score(job)
                np.testing.assert_allclose(scored.scores.sampled, expected(model, job), atol=1e-4)
                revision = job.weights.revision if job.weights else engine.info.weights_revision
                assert scored.weights_revision == revision

    asyncio.run(score_by_turns())


def test_weights_that_do_not_fit_leave_the_engine_as_it_was(engine, tmp_path):
    file = tmp_path / "half.safetensors"
    save_file({"model.norm.weight": torch.ones(32)}, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    job = random_job(**SMALL)

    async def score() -> None:
        with pytest.raises(WeightsUnavailable):
            await engine.score(replace(job, weights=Weights("run", "1", file.as_uri(), digest)))
        scored = await engine.score(job)
        np.testing.assert_allclose(scored.scores.sampled, expected(engine.model, job), atol=1e-4)

    asyncio.run(score())


def test_a_cancelled_job_ends_before_its_next_batch(model_folder):
    engine = make(model_folder, max_batch_tokens=1)
    passes: list[None] = []
    release = threading.Event()
    job = random_job([9] * 50, [9], [(context, 0) for context in range(50)])

    async def score() -> None:
        loop, begun = asyncio.get_running_loop(), asyncio.Event()

        def hold(*_: object) -> None:
            passes.append(None)
            loop.call_soon_threadsafe(begun.set)
            assert release.wait(240)

        handle = engine.model.base_model.register_forward_hook(hold)
        task = asyncio.create_task(engine.score(job))
        await begun.wait()
        task.cancel()
        await asyncio.wait({task})
        release.set()
        await engine.close()
        handle.remove()
        assert task.cancelled()

    asyncio.run(score())
    assert len(passes) == 1  # of 100


def test_a_job_cancelled_before_its_turn_is_not_begun(engine):
    passes: list[None] = []
    release = threading.Event()

    def hold(*_: object) -> None:
        passes.append(None)
        assert release.wait(240)

    engine.model.base_model.register_forward_hook(hold)

    async def score() -> None:
        first, second = (asyncio.create_task(engine.score(random_job(**SMALL))) for _ in "12")
        await until(lambda: passes)
        second.cancel()
        await asyncio.wait({second})
        assert second.cancelled()
        release.set()
        await first
        await engine.close()

    asyncio.run(score())
    assert len(passes) == 2  # the contexts and the responses of the first


@pytest.mark.parametrize("named", [False, True])
def test_a_job_that_needs_too_much_memory_fails_alone(engine, tmp_path, monkeypatch, named):
    def allocate(*_: object) -> None:
        torch.empty(1 << 50)  # what no machine has: the allocator's own error

    job = random_job(**SMALL, id="large")
    with monkeypatch.context() as patched:
        if named:
            file = tmp_path / "w.safetensors"
            save_model(engine.model, str(file))
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            job = replace(job, weights=Weights("run", "1", file.as_uri(), digest))
            patched.setattr(module, "with_tensors", allocate)
        else:
            patched.setattr(engine._own, "score", allocate)
        with pytest.raises(EngineFailure, match="--max-batch-tokens 16384") as failed:
            asyncio.run(engine.score(job))
    assert failed.value.reason == "OUT_OF_MEMORY"
    assert asyncio.run(engine.score(job)).scores.sampled is not None


def test_other_errors_of_torch_are_not_taken_for_a_lack_of_memory(engine, monkeypatch):
    def divide(*_: object) -> None:
        torch.zeros(2) @ torch.zeros(3)

    monkeypatch.setattr(engine._own, "score", divide)
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        asyncio.run(engine.score(random_job(**SMALL)))


def test_bfloat16_stays_close_and_returns_float32(model_folder, engine):
    job = random_job(**SMALL)
    scores = asyncio.run(make(model_folder, dtype="bfloat16").score(job)).scores
    assert scores.sampled is not None
    assert scores.sampled.dtype == np.float32
    np.testing.assert_allclose(scores.sampled, expected(engine.model, job), atol=0.5)


def test_a_model_with_soft_caps_and_windows_loads(tmp_path):
    config = Gemma2Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=4,
        max_position_embeddings=256,
        initializer_range=0.25,
    )
    model = write_model(tmp_path, config)
    write_tokenizer(tmp_path)
    engine = make(tmp_path)
    job = random_job(**SMALL)
    scored = asyncio.run(engine.score(job))
    model.set_attn_implementation("eager")
    np.testing.assert_allclose(scored.scores.sampled, expected(model, job), atol=1e-4)


def test_a_model_with_unknown_parts_behind_its_head_is_refused(model_folder, monkeypatch):
    honest = module.load_model

    def with_unknown_part(*arguments):
        model = honest(*arguments)
        model.lm_head.register_forward_hook(lambda _module, _inputs, logits: logits * 1.5)
        return model

    monkeypatch.setattr(module, "load_model", with_unknown_part)
    with pytest.raises(InputError, match=r"LlamaForCausalLM.*differs from a plain forward pass"):
        make(model_folder)


def without(folder: Path, copy: Path, *patterns: str) -> Path:
    shutil.copytree(folder, copy)
    for pattern in patterns:
        for path in copy.glob(pattern):
            path.unlink()
    return copy


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.json", "is no model folder"),
        ("*.safetensors", "is no model folder"),
        ("tokenizer*", "tokenizer"),
    ],
)
def test_an_incomplete_folder_is_named_with_the_remedy(model_folder, tmp_path, missing, message):
    folder = without(model_folder, tmp_path / "copy", missing)
    with pytest.raises(InputError, match=message) as refused:
        make(folder)
    assert str(folder) in str(refused.value)


def test_a_folder_that_lacks_tensors_is_refused(model_folder, tmp_path):
    folder = without(model_folder, tmp_path / "copy")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"lack 1 tensors .* model\.norm\.weight"):
        make(folder)


def test_an_unknown_kind_of_model_is_refused(model_folder, tmp_path):
    folder = without(model_folder, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "unheard_of"}))
    with pytest.raises(InputError, match="cannot be loaded"):
        make(folder)
