"""Who may do what, tried from outside against servers with tokens."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from counterhint.credentials import Credentials
from counterhint.errors import CounterhintError
from counterhint.messages import job_to_message, result_from_message
from counterhint.tokens import Grant, TokenTable, new_token, now, write_table
from counterhint.v1 import scoring_pb2
from tests.faults.site import COUNTERHINT, Site, Teacher, one_call
from tests.services.scripted_teacher import make_job

RUNS = ("maths", "logic")


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The token of each run, and the file that servers know them by."""
    file = tmp_path_factory.mktemp("tokens") / "tokens.json"
    made = {run: new_token() for run in RUNS}
    grants = {run: Grant(tokens={digest: now()}) for run, (_, digest) in made.items()}
    write_table(file, TokenTable(runs=grants))
    return {"file": str(file)} | {run: token for run, (token, _) in made.items()}


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, teacher: Teacher, tokens: dict[str, str]
) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site"))
    site.redis.start()
    site.services(teacher=teacher.address, flags=("--tokens", tokens["file"]))
    yield site
    site.end()


@pytest.mark.parametrize(
    ("token", "run", "expected"),
    [
        (None, "maths", "UNAUTHENTICATED NO_TOKEN"),
        ("chint_wrong", "maths", "UNAUTHENTICATED UNKNOWN_TOKEN"),
        ("maths", "logic", "PERMISSION_DENIED OTHER_RUN"),
    ],
    ids=["no token", "a wrong token", "another run's job"],
)
def test_who_may_not_is_told_so(
    token: str | None, run: str, expected: str, site: Site, tokens: dict[str, str], fingerprint: str
) -> None:
    shown = None if token is None else tokens.get(token, token)
    request = job_to_message(make_job("refused", run_id=run, fingerprint=fingerprint))
    error = one_call(site.intake, request, Credentials(token=shown))
    assert isinstance(error, CounterhintError)
    assert f"{error.code.name} {error.reason}" == expected
    assert not [stats for stats in site.ask(lambda queue: queue.stats()) if stats.queued]


def test_the_same_id_in_another_run_is_another_job(
    site: Site, tokens: dict[str, str], fingerprint: str
) -> None:
    for run, length in zip(RUNS, (4, 7), strict=True):
        job = make_job("same", length, run, fingerprint)
        answer = one_call(site.intake, job_to_message(job), Credentials(token=tokens[run]))
        assert isinstance(answer, scoring_pb2.ScoreResponse)
        scores = result_from_message(answer, job).scores
        assert scores.sampled is not None
        assert len(scores.sampled) == length
    done = {stats.run_id: stats.done for stats in site.ask(lambda queue: queue.stats())}
    assert done == dict.fromkeys(RUNS, 1)


@pytest.mark.parametrize("part", ["services", "teacher"])
def test_plaintext_beyond_this_machine_needs_to_be_told(
    part: str, tmp_path: Path, model: Path
) -> None:
    commands = {
        "services": (
            *(*COUNTERHINT, "services", "run", "intake", "dispatcher"),
            *("--teachers", "127.0.0.1:9"),
        ),
        "teacher": (*COUNTERHINT, "teacher", "serve", "--model", str(model)),
    }
    site = Site(tmp_path)
    command = (*commands[part], "--listen", "0.0.0.0:0")
    try:
        refused, told = site.start(*command), site.start(*command, "--insecure")
        assert refused.wait() == 2
        assert "--listen 0.0.0.0:0 would carry plaintext beyond this machine" in refused.said
        assert "--insecure" in refused.said
        told.wait_until_said({"services": "intake on ", "teacher": " ready on "}[part])
    finally:
        site.end()
