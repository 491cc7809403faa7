"""What `counterhint queue …` prints."""

import json
import re
from pathlib import Path

import pytest

from deploy.cli import main


def test_show_tells_one_job_s_state(filled_redis: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["queue", "show", "dead", "--redis", filled_redis, "--json"]) == 0
    (job,) = json.loads(capsys.readouterr().out)
    assert (job["state"], job["reason"], job["failures"]) == ("dead", "ENGINE_FAILED", 1)
    assert main(["queue", "show", "nobody", "--redis", filled_redis]) == 2
    assert "'nobody'" in capsys.readouterr().err


def test_dead_jobs_are_listed_and_retried(
    filled_redis: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["queue", "dead", "--redis", filled_redis, "--json"]) == 0
    assert [job["id"] for job in json.loads(capsys.readouterr().out)] == ["dead"]
    assert main(["queue", "retry", "dead", "--redis", filled_redis]) == 0
    assert "queued again" in capsys.readouterr().out
    assert main(["queue", "retry", "dead", "--redis", filled_redis]) == 1
    assert main(["queue", "dead", "--redis", filled_redis, "--json"]) == 0
    assert '"dead"' not in capsys.readouterr().out


@pytest.mark.parametrize("command", ["show", "retry"])
def test_the_help_s_example_names_a_job_as_the_trainer_does(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["queue", command, "--help"])
    example = (
        rf"counterhint queue {command} [\w-]+-[0-9a-f]{{8}}/step-\d+/group-\d+/[0-9a-f]{{12}} "
    )
    assert re.search(example, capsys.readouterr().out)


def test_an_unreachable_redis_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["queue", "dead", "--redis", f"unix://{tmp_path}/none.sock"]) == 2
    assert "give the URL of one" in capsys.readouterr().err
