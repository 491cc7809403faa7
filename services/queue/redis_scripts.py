"""The Lua scripts, as Redis gets them."""

from importlib import resources

from services.queue.records import TOP_PRIORITY, QueueSettings

SCRIPTS = (
    "join",
    "enqueue",
    "claim",
    "heartbeat",
    "finish",
    "give_back",
    "reap",
    "cancel",
    "dead",
    "retry",
    "purge",
    "stats",
    "set_policy",
    "pause",
    "resume",
)


def load_scripts(settings: QueueSettings) -> dict[str, str]:
    """The Lua scripts, each with the settings and the prelude before it."""
    facts = {
        "max_jobs": settings.max_jobs,
        "max_bytes": settings.max_bytes,
        "max_run_jobs": settings.max_run_jobs,
        "max_run_bytes": settings.max_run_bytes,
        "max_attempts": settings.max_attempts,
        "lease_ms": milliseconds(settings.lease_seconds),
        "job_ms": milliseconds(settings.job_seconds),
        "result_ms": milliseconds(settings.result_seconds),
        "dead_ms": milliseconds(settings.dead_seconds),
        "aging_ms": milliseconds(settings.aging_seconds),
        "retry_ms": milliseconds(settings.retry_after),
        "max_retry_ms": milliseconds(settings.max_retry_after),
    }
    table = ", ".join(f"{name} = {value}" for name, value in facts.items())
    folder = resources.files("services.queue") / "scripts"
    prelude = (folder / "prelude.lua").read_text(encoding="utf-8")
    beginning = f"local settings = {{{table}}}\nlocal TOP = {TOP_PRIORITY}\n{prelude}"
    return {
        name: beginning + (folder / f"{name}.lua").read_text(encoding="utf-8") for name in SCRIPTS
    }


def milliseconds(seconds: float) -> int:
    """Seconds as Redis takes them."""
    return max(0, round(seconds * 1000))
