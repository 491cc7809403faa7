"""What the services count, for Prometheus; `docs/operations.md` explains each.

What the queue knows is read from it now and then, so that runs that are gone have no series left.
"""

from collections.abc import Iterator, Mapping, Sequence

from prometheus_client import Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.queue.records import RunStats

MAX_RUNS = 200
"""Runs with series of their own: clients choose the names of runs."""
SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000)

ANSWERS = Counter(
    "counterhint_intake_answers",
    "Jobs that the intake answered, by reason (OK: scored); refusals among them",
    ["reason"],
)
WAIT_SECONDS = Histogram(
    "counterhint_intake_wait_seconds",
    "Seconds between acceptance and last claim of a scored job",
    buckets=SECONDS,
)
ANSWER_SECONDS = Histogram(
    "counterhint_intake_answer_seconds",
    "Seconds between a scored job's arrival and its answer",
    buckets=SECONDS,
)
SERVICE_SECONDS = Histogram(
    "counterhint_dispatcher_service_seconds",
    "Seconds between sending a job and its scores",
    buckets=SECONDS,
)
RETRIES = Counter(
    "counterhint_dispatcher_retries",
    "Deliveries after which the job went back into the queue, by reason",
    ["reason"],
)
FAILURES = Counter(
    "counterhint_dispatcher_failures",
    "Deliveries whose error is the job's outcome, by reason",
    ["reason"],
)
DEAD_LETTERS = Counter(
    "counterhint_dispatcher_dead_letters",
    "Deliveries after which the job was put aside, by reason",
    ["reason"],
)
LOST_LEASES = Counter(
    "counterhint_dispatcher_lost_leases",
    "Deliveries that lost their lease, or their job by a cancel: what came of them is discarded",
)

REQUESTS = Counter(
    "counterhint_gateway_requests",
    "Requests that the gateway answered, by route and status",
    ["route", "status"],
)
REQUEST_SECONDS = Histogram(
    "counterhint_gateway_request_seconds",
    "Seconds between a request's head and the end of its answer",
    ["route"],
    buckets=SECONDS,
)

JOB_STATES = ("queued", "claimed", "dead")
ENDS = ("done", "failed", "cancelled", "expired")
TOKENS = ("tokens", "tokens_naive", "tokens_computed", "tokens_cached", "pairs_cached")
SUMS = (*TOKENS, "engine_seconds", "wait_seconds")


class QueueFigures(Collector):
    """The queue's runs as they were last seen: at most `MAX_RUNS`, those with work first."""

    def __init__(self) -> None:
        self.runs: Sequence[RunStats] = ()
        self.ready = False
        """Whether the queue takes jobs and a teacher is known."""
        self.teachers = 0
        """Teachers that are connected to this process's dispatcher."""
        self.in_flight: Mapping[str, int] = {}
        """Jobs at each of its teachers."""

    def collect(self) -> Iterator[Metric]:
        """One sample a run of each figure."""
        runs = sorted(
            self.runs, key=lambda run: (run.queued + run.claimed, run.tokens), reverse=True
        )[:MAX_RUNS]
        jobs = GaugeMetricFamily(
            "counterhint_queue_jobs", "A run's jobs now", labels=["run", "state"]
        )
        ends = CounterMetricFamily(
            "counterhint_queue_ended", "A run's jobs that ended", labels=["run", "state"]
        )
        sizes = GaugeMetricFamily(
            "counterhint_queue_bytes", "Payload bytes of a run's unfinished jobs", labels=["run"]
        )
        paused = GaugeMetricFamily(
            "counterhint_queue_paused", "1 while a run is paused", labels=["run"]
        )
        oldest = GaugeMetricFamily(
            "counterhint_queue_oldest_seconds",
            "Seconds since a run's oldest queued job was accepted",
            labels=["run"],
        )
        for run in runs:
            for state in JOB_STATES:
                jobs.add_metric([run.run_id, state], getattr(run, state))
            for state in ENDS:
                ends.add_metric([run.run_id, state], getattr(run, state))
            sizes.add_metric([run.run_id], run.bytes)
            paused.add_metric([run.run_id], run.paused)
            oldest.add_metric([run.run_id], run.oldest_seconds)
        yield from (jobs, ends, sizes, paused, oldest)
        for name in SUMS:
            total = CounterMetricFamily(
                f"counterhint_queue_{name}", f"A run's {name}, as runs show has it", labels=["run"]
            )
            for run in runs:
                total.add_metric([run.run_id], getattr(run, name))
            yield total
        in_flight = GaugeMetricFamily(
            "counterhint_dispatcher_in_flight", "Jobs at a teacher", labels=["teacher"]
        )
        for teacher, number in self.in_flight.items():
            in_flight.add_metric([teacher], number)
        yield in_flight
        yield GaugeMetricFamily("counterhint_queue_runs", "Runs that are known", len(self.runs))
        yield GaugeMetricFamily(
            "counterhint_services_ready",
            "1 while jobs are taken and a teacher is known",
            self.ready,
        )
        yield GaugeMetricFamily(
            "counterhint_dispatcher_teachers", "Teachers that are connected", self.teachers
        )
