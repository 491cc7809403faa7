"""What `counterhint runs …` prints and does, on a real Redis."""

import json
from typing import Any

import pytest

from deploy.cli import main


@pytest.fixture
def runs(filled_redis: str, capsys: pytest.CaptureFixture[str]):
    """Runs a command; its exit code and its JSON, or what it printed as an error."""

    def run(*arguments: str) -> tuple[int, Any]:
        code = main(["runs", *arguments, "--redis", filled_redis, "--json"])
        printed = capsys.readouterr()
        return code, json.loads(printed.out) if printed.out else printed.err

    return run


def test_ls_has_a_row_for_each_run(runs, filled_redis, capsys):
    code, (run,) = runs("ls")
    assert code == 0
    assert (run["run_id"], run["queued"], run["done"], run["dead"]) == ("first", 1, 1, 1)
    assert (run["weight"], run["paused"], run["tokens"]) == (1.0, False, 20)
    assert (run["pairs_cached"], run["tokens_cached"], run["engine_seconds"]) == (2, 6, 0.5)
    assert run["wait_mean"] == run["wait_seconds"] / 2
    assert main(["runs", "ls", "--redis", filled_redis]) == 0
    assert "first" in capsys.readouterr().out


def test_show_prints_a_line_for_each_figure(runs, filled_redis, capsys):
    assert runs("show", "first")[1]["bytes"] == 7
    assert main(["runs", "show", "first", "--redis", filled_redis]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert (lines["run_id"], lines["tokens_cached"], lines["max_jobs"]) == ("first", "6", "-")


@pytest.mark.parametrize("command", ["show", "resume", "cancel"])
def test_an_unknown_run_is_named(runs, command):
    code, error = runs(command, "nobody")
    assert code == 2
    assert "no run has the id 'nobody'; counterhint runs ls lists the runs" in error


def test_a_pause_holds_until_it_is_ended(runs):
    code, run = runs("pause", "first")
    assert (code, run["paused"], run["queued"]) == (0, True, 1)
    code, run = runs("resume", "first")
    assert (code, run["paused"]) == (0, False)
    assert runs("resume", "first")[0] == 1


def test_a_run_can_be_paused_before_its_first_job(runs):
    code, run = runs("pause", "later")
    assert (code, run["paused"], run["queued"]) == (0, True, 0)
    assert [run["run_id"] for run in runs("ls")[1]] == ["first", "later"]


def test_a_run_that_nobody_has_heard_of_is_told_as_such(filled_redis, capsys):
    for command in (["pause"], ["policy", "--weight", "2"]):
        for run, told in ((f"slip-{command[0]}", True), ("first", False)):
            assert main(["runs", command[0], run, *command[1:], "--redis", filled_redis]) == 0
            assert ("before its first job" in capsys.readouterr().out) is told


def test_cancel_ends_unfinished_and_dead_jobs(runs):
    assert runs("cancel", "first") == (0, {"run": "first", "cancelled": 2})
    run = runs("show", "first")[1]
    assert (run["queued"], run["cancelled"], run["dead"], run["done"]) == (0, 1, 0, 1)
    assert runs("cancel", "first") == (1, {"run": "first", "cancelled": 0})


def test_a_policy_changes_what_is_given(runs):
    code, run = runs("policy", "first", "--weight", "2.5", "--max-jobs", "7")
    assert (code, run["weight"], run["max_jobs"], run["set_by_operator"]) == (0, 2.5, 7, True)
    run = runs("policy", "first", "--max-priority", "1", "--max-bytes", "100")[1]
    assert (run["weight"], run["max_priority"], run["max_jobs"]) == (2.5, 1, 7)
    assert run["max_bytes"] == 100
    run = runs("policy", "first", "--reset")[1]
    assert (run["weight"], run["max_priority"], run["set_by_operator"]) == (1.0, 3, False)
    assert runs("policy", "later", "--weight", "3")[1]["weight"] == 3.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give what to set"),
        (["--reset", "--weight", "2"], "or --reset alone"),
        (["--weight", "0"], "weight is 0.0; give 0.001 to 1000"),
        (["--max-priority", "4"], "max_priority is 4; give 0 to 3"),
        (["--max-jobs", "-1"], "--max-jobs"),
    ],
)
def test_a_policy_that_cannot_be_set_is_refused(runs, arguments, message):
    code, error = runs("policy", "first", *arguments)
    assert code == 2
    assert message in error
    assert runs("show", "first")[1]["set_by_operator"] is False
