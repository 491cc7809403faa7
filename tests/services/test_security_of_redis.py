"""The queue's Redis user: the queue's own tests run as it; this is what it must not do."""

import asyncio
from pathlib import Path

import pytest
import redis

from counterhint.errors import InputError
from deploy.cli import main
from deploy.local.redis import LocalRedis
from services import queue
from services.queue.records import QueueSettings
from services.queue.redis_streams import RedisQueue
from tests.services.conftest import ACL_RULES


def test_the_rules_allow_no_command_that_the_queue_does_not_use() -> None:
    (folder,) = map(Path, queue.__path__)
    files = [*folder.glob("*.py"), *folder.glob("scripts/*.lua")]
    sources = "".join(file.read_text() for file in files).replace('"', "'")
    allowed = {word[1:] for word in ACL_RULES.read_text().split() if word.startswith("+")}
    of_redis_py = {"subscribe", "unsubscribe"}
    for command in allowed - of_redis_py:
        assert f"'{command.partition('|')[0].upper()}'" in sources


@pytest.mark.parametrize(
    "command",
    [
        "GET others",
        "SET others x",
        "DEL others",
        "MGET {counterhint}:total others",
        "PUBLISH others x",
        "KEYS *",
        "SCAN 0",
        "FLUSHALL",
        "CONFIG GET *",
        "ACL LIST",
        "CLIENT LIST",
        "MONITOR",
        "SHUTDOWN",
        "SCRIPT FLUSH",
        "DEBUG SLEEP 0",
    ],
)
def test_the_queue_s_user_may_do_nothing_else(command: str, queue_user_url: str) -> None:
    with redis.Redis.from_url(queue_user_url) as user:
        user.set("{counterhint}:x", 1)
        with pytest.raises(redis.exceptions.NoPermissionError):
            user.execute_command(*command.split())


def test_a_script_of_the_queue_s_user_reaches_no_other_keys(
    queue_user_url: str, redis_server: LocalRedis
) -> None:
    with redis.Redis.from_url(redis_server.url) as operator:
        operator.set("others", "secret")
        with redis.Redis.from_url(queue_user_url) as user:
            digest = user.script_load("return redis.call('GET', 'others')")
            with pytest.raises(redis.exceptions.ResponseError, match="can't access at least one"):
                user.evalsha(digest, 0)
        operator.delete("others")


@pytest.mark.parametrize("command", [("runs", "ls"), ("bench", "queue")], ids=" ".join)
def test_wrong_passwords_and_missing_permissions_end_with_one_line_without_the_password(
    command: tuple[str, str],
    queue_user_url: str,
    redis_server: LocalRedis,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with redis.Redis.from_url(redis_server.url) as operator:
        rules = [rule for rule in ACL_RULES.read_text().split() if rule != "+evalsha"]
        operator.execute_command("ACL", "SETUSER", "half", "on", ">secret", *rules)
    for user, problem in (("queue:wrong", "invalid username-password"), ("half:secret", "evalsha")):
        url = f"unix://{user}@{redis_server.socket}"
        assert main([*command, "--redis", url]) == 2
        error = capsys.readouterr().err
        assert problem in error
        assert error.count("\n") == 1
        assert user.partition(":")[2] not in error


def test_without_a_permission_the_queue_says_what_to_do(redis_server: LocalRedis) -> None:
    with redis.Redis.from_url(redis_server.url) as operator:
        operator.execute_command("ACL", "SETUSER", "none", "on", ">secret", "~*", "-@all", "+ping")

    async def run() -> None:
        async with RedisQueue(f"unix://none:secret@{redis_server.socket}", QueueSettings()):
            pass

    with pytest.raises(InputError, match="deploy/redis/acl-rules"):
        asyncio.run(run())
