"""The teacher's commands: `counterhint teacher serve`, `bench scoring` and `bench wire`."""

import json
from collections.abc import Set
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

from pydantic import AliasChoices, Field
from pydantic_settings import SettingsConfigDict

from counterhint.command_line import EXIT_DONE, Command
from counterhint.errors import InputError
from counterhint.heap import bound_heap
from counterhint.logs import LoggedCommand
from counterhint.server_security import SecuredServer
from teacher_server.bench.job import GroupShape

if TYPE_CHECKING:
    from teacher_server.bench.served import AgainstFigures, ServedFigures
    from teacher_server.bench.transformers import TransformersFigures
    from teacher_server.bench.vllm import VllmFigures
    from teacher_server.engines.base import Engine


class Serve(SecuredServer, LoggedCommand):
    """Serve a teacher over gRPC until SIGTERM or Ctrl-C.

    Exit codes: 0 after a signal; 2 when something given cannot be used; 70 when the engine has
    died, hangs or is not ready in time: start the teacher again, its jobs go back to the queue.

    example:
      counterhint teacher serve --model models/teacher --listen 127.0.0.1:50051
      counterhint teacher serve --model models/teacher --listen unix:///tmp/teacher.sock \\
        --weights-root runs/demo/weights
      counterhint teacher serve --engine vllm --model models/teacher \\
        --engine-arg tensor_parallel_size=2
    """

    model_config = SettingsConfigDict(env_prefix="COUNTERHINT_TEACHER_")

    model: Path
    """Model folder in the transformers format, with its tokenizer."""
    listen: str = "127.0.0.1:50051"
    """host:port (port 0: any free one) or unix:///path."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """What computes the log probs; vllm needs an environment with counterhint[teacher-vllm], and
    logs warnings only: VLLM_LOGGING_LEVEL=INFO says more."""
    engine_arg: list[str] = Field([])
    """vllm: an engine argument by its name in Python, name=value; repeatable."""
    scoring_path: Literal["auto", "response-rows", "token-ids", "prompt-log-probs"] = "auto"
    """vllm: how it is asked for scores; auto takes the best that release and device have."""
    capped_hits: bool = True
    """vllm: end prefix hits where scoring starts; otherwise swallowed rows are asked for again."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """transformers: where it computes; auto takes a GPU when there is one."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of weights and activations; log probs are float32 in any case."""
    model_id: str | None = None
    """The model's name in replies; the folder's name by default."""
    max_model_len: int | None = Field(None, ge=16)
    """Longest context + response in tokens; the model's own limit by default."""
    max_top_k: int = Field(128, ge=0)
    """Largest top-k that a job may ask for."""
    max_batch_tokens: int = Field(16384, ge=1)
    """transformers: most tokens of a batch, padding and cached ones included."""
    max_job_tokens: int = Field(1_048_576, ge=1)
    """Largest job in computed tokens; larger ones are refused for good."""
    max_queued_tokens: int = Field(1_048_576, ge=1)
    """Most tokens that wait or run; jobs beyond are told to come back later."""
    max_held_bytes: int = Field(2 * 1024**3, ge=1)
    """Most bytes of scores that are being computed or were not sent yet; jobs wait beyond it."""
    content_cache_bytes: int = Field(256 * 1024**2, ge=0)
    """Most bytes of scores that are remembered to answer the same content again; 0 for none."""
    stream_jobs: int = Field(16, ge=1)
    """Most jobs of one stream under way."""
    send_seconds: float = Field(60.0, gt=0)
    """How long a stream may leave a reply untaken before it is ended."""
    ready_seconds: float = Field(120.0, gt=0)
    """How long the loaded engine may take to start, and again for its first token."""
    hang_seconds: float = Field(300.0, gt=0)
    """How long an engine with work may make no progress; more than its slowest batch takes."""
    check_seconds: float = Field(30.0, gt=0)
    """How often an idle engine is asked for a token."""
    metrics_listen: str | None = None
    """host:port of /metrics, /health and /ready over HTTP; none by default."""
    weights_root: list[Path] = Field([])
    """Folder that weights named by jobs may come from; repeatable, none by default."""
    max_loaded_weights: int = Field(2, ge=1)
    """Named weights that are held at once, beside the server's own."""
    drain_seconds: float = Field(30.0, ge=0)
    """How long jobs may still run after the signal to end."""

    def run(self) -> int:
        """Serves until a signal comes or the engine is lost."""
        from teacher_server.server import ServerOptions, run_teacher

        self.start_logs("teacher")
        if self.engine == "vllm":  # whose processes compute, not this one
            bound_heap()
        if self.max_queued_tokens < self.max_job_tokens:
            raise InputError(
                f"--max-queued-tokens {self.max_queued_tokens} is below --max-job-tokens "
                f"{self.max_job_tokens}: the largest job would never be taken; raise it"
            )
        for root in self.weights_root:
            if not root.is_dir():
                raise InputError(
                    f"--weights-root {root} is no folder here: make it (mkdir -p {root}), or give "
                    "the one that trainers write to"
                )
        options = ServerOptions(
            listen=self.listen,
            security=self.security(),
            metrics_listen=self.metrics_listen,
            drain_seconds=self.drain_seconds,
            ready_seconds=self.ready_seconds,
            hang_seconds=self.hang_seconds,
            check_seconds=self.check_seconds,
            send_seconds=self.send_seconds,
            max_queued_tokens=self.max_queued_tokens,
            max_held_bytes=self.max_held_bytes,
            content_cache_bytes=self.content_cache_bytes,
            stream_jobs=self.stream_jobs,
        )
        return run_teacher(options, self._make_engine, lambda line: print(line, flush=True))

    def _make_engine(self) -> "Engine":
        """The engine that the options describe."""
        refuse_options_of_others(self.model_fields_set, self.engine)
        if self.engine == "vllm":
            from teacher_server.engines.vllm.engine import VllmEngine
            from teacher_server.engines.vllm.options import VllmOptions, parse_engine_args

            return VllmEngine(
                VllmOptions(
                    model=self.model,
                    model_id=self.model_id,
                    dtype=self.dtype,
                    max_model_len=self.max_model_len,
                    max_top_k=self.max_top_k,
                    max_job_tokens=self.max_job_tokens,
                    weights_roots=tuple(self.weights_root),
                    max_loaded_weights=self.max_loaded_weights,
                    scoring_path=self.scoring_path,
                    capped_hits=self.capped_hits,
                    engine_args=parse_engine_args(self.engine_arg),
                )
            )
        from transformers.utils.logging import disable_progress_bar

        from teacher_server.engines.transformers import TransformersEngine, TransformersOptions

        disable_progress_bar()
        return TransformersEngine(
            TransformersOptions(
                model=self.model,
                model_id=self.model_id,
                device=self.device,
                dtype=self.dtype,
                max_batch_tokens=self.max_batch_tokens,
                max_model_len=self.max_model_len,
                max_top_k=self.max_top_k,
                max_job_tokens=self.max_job_tokens,
                weights_roots=tuple(self.weights_root),
                max_loaded_weights=self.max_loaded_weights,
            )
        )


_OPTIONS_OF_OTHERS = {
    "transformers": {"engine_arg", "scoring_path", "capped_hits"},
    "vllm": {"device", "max_batch_tokens"},
}
"""Options that mean nothing to an engine."""


def refuse_options_of_others(given: Set[str], engine: str) -> None:
    """Refuses options that were given but mean nothing to the engine.

    Raises:
        InputError: there is one.
    """
    if wrong := sorted(given & _OPTIONS_OF_OTHERS[engine]):
        flag = wrong[0].replace("_", "-")
        raise InputError(f"--{flag} does not go with --engine {engine}; remove it")


class GroupCommand(Command):
    """What every benchmark of a group's job can be told."""

    model_config = SettingsConfigDict(env_prefix="COUNTERHINT_BENCH_")

    group: int = Field(GroupShape.group, ge=2)
    """Rollouts of the group, and contexts: every rollout is a hint for its siblings."""
    wrong: int = Field(GroupShape.wrong, ge=0)
    """Wrong hints of a rollout, beside its correct one."""
    context_tokens: int = Field(GroupShape.context_tokens, ge=1)
    """Tokens of each context."""
    response_tokens: int = Field(GroupShape.response_tokens, ge=1)
    """Tokens of each response."""
    json_output: bool = Field(False, validation_alias=AliasChoices("json"))
    """Print one JSON object."""

    def shape(self, top_k: int) -> GroupShape:
        """The job."""
        return GroupShape(self.group, self.wrong, self.context_tokens, self.response_tokens, top_k)


class BenchScoring(GroupCommand):
    """Time a group's job scored our way against one request or forward pass a pair.

    In one process (--engine), the whole way through a teacher or the services (--url), or that
    against another server of the same model (--url with --against).

    example:
      counterhint bench scoring --engine transformers --json
      counterhint bench scoring --engine vllm --model models/teacher --top-k 16
      counterhint bench scoring --url 127.0.0.1:50050 --against http://127.0.0.1:8000
    """

    engine: Literal["transformers", "vllm"] = "transformers"
    """What computes the log probs; vllm needs an environment with counterhint[teacher-vllm]."""
    model: Path | None = None
    """Model folder; a random Llama of 4 layers (hidden size 512, 4096 tokens) by default."""
    top_k: int = Field(GroupShape.top_k, ge=0)
    """Entries of the top k at each position; 0 for the response's own tokens only."""
    max_batch_tokens: int = Field(16384, ge=1)
    """transformers: most tokens of a batch, both ways."""
    engine_arg: list[str] = Field([])
    """vllm: an engine argument by its name in Python, name=value; repeatable."""
    url: str | None = None
    """Score through this address instead, of a teacher or of the services' intake: host:port or
    unix:///path."""
    against: str | None = None
    """With --url: a vLLM server of the same model, http://host:port, that scores by turns."""
    repeats: int = Field(3, ge=1)
    """Rounds after the first one; medians are shown."""

    def run(self) -> int:
        """Measures and prints."""
        figures = asdict(self._through_servers() if self.url else self._in_process())
        if self.json_output:
            print(json.dumps(figures))
            return EXIT_DONE
        width = max(map(len, figures))
        for name, value in figures.items():
            shown = f"{value:.6g}" if isinstance(value, float) else value
            print(f"{name:<{width}} {shown}")
        return EXIT_DONE

    def _in_process(self) -> "TransformersFigures | VllmFigures":
        if self.against:
            raise InputError(
                f"--against {self.against}: give --url as well, the address of a teacher or of "
                "the services that serve the same model"
            )
        refuse_options_of_others(self.model_fields_set, self.engine)
        from teacher_server.bench.random_model import write_random_model

        with TemporaryDirectory() as folder:
            model = self.model or write_random_model(Path(folder))
            shape = self.shape(self.top_k)
            if self.engine == "vllm":
                from teacher_server.bench.vllm import bench_vllm

                return bench_vllm(model, shape, self.engine_arg, self.repeats)
            from teacher_server.bench.transformers import bench_transformers

            return bench_transformers(model, shape, self.max_batch_tokens, self.repeats)

    def _through_servers(self) -> "ServedFigures | AgainstFigures":
        of_engines = {"engine", "model", "max_batch_tokens", "engine_arg"}
        if wrong := sorted(self.model_fields_set & of_engines):
            flag = wrong[0].replace("_", "-")
            raise InputError(f"--{flag} does not go with --url: the server has its own; remove it")
        from teacher_server.bench.served import bench_against, bench_served

        assert self.url
        shape = self.shape(self.top_k)
        if self.against:
            return bench_against(self.url, self.against, shape, self.repeats)
        return bench_served(self.url, shape, self.repeats)


class BenchWire(GroupCommand):
    """Measure replies in bytes and time against the JSON of OpenAI-compatible servers.

    example:
      counterhint bench wire --json
      counterhint bench wire --group 8 --wrong 4 --top-k 100 --vocab-size 151936
    """

    top_k: int = Field(16, ge=1)
    """Entries of a position, for the reply with the top k."""
    vocab_size: int = Field(151_936, ge=1, le=2**31)
    """Token ids are below this; 151,936 is Qwen's."""
    repeats: int = Field(5, ge=1)
    """Rounds after the first one; medians are shown."""

    def run(self) -> int:
        """Measures and prints."""
        from teacher_server.bench.wire import bench_wire

        figures = asdict(bench_wire(self.shape(self.top_k), self.vocab_size, self.repeats))
        if self.json_output:
            print(json.dumps(figures))
            return EXIT_DONE
        sampled, top_k = figures.pop("sampled"), figures.pop("top_k")
        for name, value in figures.items():
            print(f"{name:<24} {value:>12}")
        print(f"{'a reply with':<24} {'sampled':>12} {f'and top {self.top_k}':>12}")
        for name in sampled:
            shown = (
                f"{value:>12.6f}" if isinstance(value, float) else f"{value:>12}"
                for value in (sampled[name], top_k[name])
            )
            print(f"{name:<24}", *shown)
        return EXIT_DONE
