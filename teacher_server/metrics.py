"""What the teacher counts, for Prometheus; `docs/operations.md` explains each.

All of it is in the default registry, where vLLM's own metrics are too.
"""

from prometheus_client import Counter, Gauge, Histogram

from counterhint.jobs import Cost, TeacherInfo
from teacher_server.admission import Admission
from teacher_server.watched_engine import WatchedEngine

JOBS = Counter("counterhint_teacher_jobs", "Jobs that ended, by reason (OK: scored)", ["reason"])
TOKENS_NAIVE = Counter(
    "counterhint_teacher_tokens_naive", "Tokens that one forward pass a pair would have taken"
)
TOKENS_COMPUTED = Counter(
    "counterhint_teacher_tokens_computed", "Tokens that went through the model for scored jobs"
)
PAIRS = Counter("counterhint_teacher_pairs", "Pairs of scored jobs")
PAIRS_CACHED = Counter(
    "counterhint_teacher_pairs_cached", "Of them, those answered without the engine"
)
TOKENS_CACHED = Counter(
    "counterhint_teacher_tokens_cached", "Tokens that the engine was spared by that"
)
CACHE_BYTES = Gauge("counterhint_teacher_cache_bytes", "Bytes that the content cache holds")
CACHE_EVICTIONS = Counter(
    "counterhint_teacher_cache_evictions", "Pairs that the content cache dropped to make room"
)
ENGINE_SECONDS = Histogram(
    "counterhint_teacher_engine_seconds",
    "Seconds that the engine computed for a scored job",
    buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000),
)
WAIT_SECONDS = Histogram(
    "counterhint_teacher_wait_seconds",
    "Seconds that a scored job waited for its turn",
    buckets=(0.001, 0.01, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000),
)
TOKENS_WAITING = Gauge("counterhint_teacher_tokens_waiting", "Tokens of jobs waiting for a turn")
TOKENS_RUNNING = Gauge("counterhint_teacher_tokens_running", "Tokens of jobs at the engine")
HELD_BYTES = Gauge(
    "counterhint_teacher_held_bytes", "Bytes of scores of jobs let in, until they are sent"
)
READY = Gauge("counterhint_teacher_ready", "1 while jobs are scored, else 0")
ENGINE_HEALTHY = Gauge(
    "counterhint_teacher_engine_healthy", "1 until the engine is lost or the event loop hangs"
)
PROGRESS = Gauge(
    "counterhint_teacher_engine_progress", "Batches, steps or requests that the engine has done"
)
WEIGHTS_LOADED = Gauge("counterhint_teacher_weights_loaded", "Weights named by jobs that are held")
SECOND_REQUESTS = Counter(
    "counterhint_teacher_second_requests",
    "Requests sent to the engine again because a prefix hit had swallowed rows of the response",
)
TEACHER = Gauge(
    "counterhint_teacher_info",
    "1; what is served",
    ["model_id", "weights_revision", "engine", "engine_version"],
)


def follow(engine: WatchedEngine, admission: Admission) -> None:
    """From now on, the gauges show this engine and what stands in front of it."""
    TOKENS_WAITING.set_function(lambda: admission.waiting_tokens)
    TOKENS_RUNNING.set_function(lambda: admission.running_tokens)
    HELD_BYTES.set_function(lambda: admission.held_bytes)
    ENGINE_HEALTHY.set_function(lambda: not engine.trouble())
    PROGRESS.set_function(engine.progress)
    info: TeacherInfo = engine.info
    TEACHER.clear()
    TEACHER.labels(info.model_id, info.weights_revision, info.engine, info.engine_version).set(1)


def count_scored(pairs: int, cost: Cost) -> None:
    """Counts a job that was scored."""
    PAIRS.inc(pairs)
    PAIRS_CACHED.inc(cost.pairs_cached)
    TOKENS_CACHED.inc(cost.tokens_cached)
    JOBS.labels("OK").inc()
    TOKENS_NAIVE.inc(cost.tokens_naive)
    TOKENS_COMPUTED.inc(cost.tokens_computed)
    ENGINE_SECONDS.observe(cost.engine_seconds)
    WAIT_SECONDS.observe(cost.wait_seconds)
