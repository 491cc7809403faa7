"""A real vLLM engine for tests, and what its scores are held against."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from counterhint import Outputs, ScoringJob, TeacherInfo
from counterhint.jobs import Scores
from counterhint.validation import validate_job
from teacher_server.engines.base import Scored
from teacher_server.engines.transformers import TransformersEngine, TransformersOptions
from teacher_server.engines.vllm.engine import VllmEngine
from teacher_server.engines.vllm.options import VllmOptions
from teacher_server.engines.vllm.requests import PairRequest, PromptLogProbsPath, pair_requests
from tests.teacher_server.jobs import given_of_pairs, tokens_of_pairs


@dataclass(frozen=True)
class Asked:
    """A request that vLLM has answered."""

    tokens: tuple[int, ...]
    cached: bool
    """Whether it could read the prefix cache."""
    preemptions: int
    """How often it lost its place in the KV cache."""


class VllmTeacher:
    """An engine on an event loop of its own, until the block ends.

    Args:
        model: the model folder.
        tolerances: the largest differences to the transformers engine, and to vLLM without cache.
        options: of the engine.
    """

    def __init__(self, model: Path, tolerances: tuple[float, float], **options: Any) -> None:
        self.to_transformers, self.to_uncached = tolerances
        self.loop = asyncio.Runner()
        self.reference = TransformersEngine(
            TransformersOptions(model, device="cpu", max_top_k=2**20)
        )
        self.engine = self.loop.run(self._start(VllmOptions(model, **options)))
        self.asked: list[Asked] = []
        """Requests that vLLM has answered."""
        self._record_requests()

    @property
    def info(self) -> TeacherInfo:
        return self.engine.info

    def engine_process(self) -> psutil.Process:
        """vLLM's engine, which hands requests to its workers."""
        (process,) = (
            child
            for child in psutil.Process().children()
            # Of one that had to be killed, a zombie stays.
            if child.status() != psutil.STATUS_ZOMBIE
            and child.cmdline()[0].startswith("VLLM::EngineCore")
        )
        return process

    @contextmanager
    def engine_standing_still(self) -> Iterator[None]:
        """Stops vLLM's engine (SIGSTOP) while the block runs: it answers nothing."""
        process = self.engine_process()
        process.suspend()
        try:
            yield
        finally:
            with suppress(psutil.NoSuchProcess):  # it was killed meanwhile
                process.resume()

    def outputs(self, top_k: int = 4) -> Outputs:
        """All that the engine can give."""
        can = self.info.outputs
        return Outputs(True, top_k, given="given" in can, entropy="entropy" in can)

    def validated(self, job: ScoringJob) -> ScoringJob:
        """The job as the server lets it in."""
        job = replace(job, tokenizer_fingerprint=self.info.tokenizer_fingerprint)
        validate_job(job, self.info)
        return job

    def score(self, *jobs: ScoringJob) -> list[Scored]:
        """Scores jobs all at once."""

        async def score_all() -> list[Scored]:
            return await asyncio.gather(*(self.engine.score(self.validated(job)) for job in jobs))

        return self.loop.run(score_all())

    def check(self, job: ScoringJob, scored: Scored) -> None:
        """Holds scores against the transformers engine's and against vLLM's without its cache."""
        scores = scored.scores
        expected = self._distributions(job)
        top_k = torch.from_numpy(expected).topk(job.outputs.top_k).values
        wanted = {
            "sampled": np.take_along_axis(expected, tokens_of_pairs(job)[:, None], 1)[:, 0],
            "entropy": -(np.exp(expected) * expected).sum(axis=1),
            "top_k_log_probs": top_k.numpy(),
        }
        if job.token_ids is not None:
            wanted["given"] = np.take_along_axis(expected, given_of_pairs(job), 1)
        asked = {"top_k_log_probs" if name == "top_k" else name for name in job.outputs.names}
        for name in asked:
            np.testing.assert_allclose(
                getattr(scores, name), wanted[name], rtol=0, atol=self.to_transformers
            )
        if scores.top_k_ids is not None:
            np.testing.assert_allclose(
                scores.top_k_log_probs,
                np.take_along_axis(expected, scores.top_k_ids, 1),
                rtol=0,
                atol=self.to_transformers,
            )
            assert all(len(set(ids)) == len(ids) for ids in scores.top_k_ids.tolist())
        uncached = self._uncached(job)
        for name in asked & {"sampled", "top_k_log_probs"}:
            np.testing.assert_allclose(
                getattr(scores, name), getattr(uncached, name), rtol=0, atol=self.to_uncached
            )

    def _distributions(self, job: ScoringJob) -> NDArray[np.float32]:
        """Log probs `[N, V]` of the transformers engine."""
        outputs = Outputs(sampled=False, top_k=self.info.vocab_size)
        plain = replace(job, outputs=outputs, token_ids=None)
        scores = asyncio.run(self.reference.score(plain)).scores
        assert scores.top_k_ids is not None
        assert scores.top_k_log_probs is not None
        distributions = np.empty_like(scores.top_k_log_probs)
        np.put_along_axis(distributions, scores.top_k_ids, scores.top_k_log_probs, axis=1)
        return distributions

    def _uncached(self, job: ScoringJob) -> Scores:
        """Sampled log probs and the top k by vLLM's public interface, without its prefix cache."""
        path = PromptLogProbsPath()

        async def ask(request: PairRequest) -> Scores:
            params = path.sampling_params(request, cached=False)
            output = await self.engine.generate(request.tokens, params)
            assert not output.num_cached_tokens
            scores = path.read(request, output, cached=False)
            assert scores is not None
            return scores

        async def ask_all() -> list[Scores]:
            plain = replace(job, token_ids=None, outputs=Outputs(top_k=job.outputs.top_k))
            return await asyncio.gather(*map(ask, pair_requests(plain)))

        parts = self.loop.run(ask_all())

        def joined(name: str) -> NDArray[np.float32]:
            return np.concatenate([getattr(part, name) for part in parts])

        return Scores(
            sampled=joined("sampled"),
            top_k_log_probs=joined("top_k_log_probs") if job.outputs.top_k else None,
        )

    def _record_requests(self) -> None:
        generate = self.engine.generate

        async def recorded(tokens: list[int], params: Any, *others: Any) -> Any:
            output = await generate(tokens, params, *others)
            assert output.metrics is not None
            cached = not params.skip_reading_prefix_cache
            self.asked.append(Asked(tuple(tokens), cached, output.metrics.num_preemptions))
            return output

        self.engine.generate = recorded  # type: ignore[method-assign]

    async def _start(self, options: VllmOptions) -> VllmEngine:
        engine = VllmEngine(options)
        await engine.start()
        return engine

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.run(self.engine.close())
        self.loop.close()
