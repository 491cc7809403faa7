"""The queue behind a `--redis` URL that a person gave."""

from urllib.parse import urlsplit

from counterhint.errors import InputError, Unavailable
from services.queue.records import QueueSettings
from services.queue.redis_streams import RedisQueue

LOGIN_REFUSED = ("username-password", "WRONGPASS", "NOAUTH", "Authentication", "HELLO must")
"""What stands in Redis's errors when it answers, but not to this user."""


async def open_redis(url: str, settings: QueueSettings | None) -> RedisQueue:
    """The queue in a Redis that answers; without settings, to look on with those of the others.

    Raises:
        InputError: the URL is none, or nothing answers there.
    """
    try:
        queue = RedisQueue(url, settings)
        await queue.check()
    except (ValueError, Unavailable) as error:
        remedy = "start a Redis 6.2 or newer there, or give the URL of one (redis://host:port/0, "
        remedy += "unix:///path)"
        if any(words in str(error) for words in LOGIN_REFUSED):
            remedy = (
                "give a user that it knows, and its password: redis://USER:PASSWORD@host:port/0"
            )
        raise InputError(f"--redis {without_password(url)}: {error}; {remedy}") from error
    return queue


def without_password(url: str) -> str:
    """A Redis URL for messages and logs."""
    password = urlsplit(url).password
    return url.replace(f":{password}@", ":…@") if password else url
