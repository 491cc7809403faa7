import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.load.samples import MIB, RedisSample, Sample, sample_process, write_samples

GROW = f"""
import threading
print("begun", flush=True)
input()
held = bytearray(b"\\1") * (32 * {MIB})
over = threading.Event()
for _ in range(3):
    threading.Thread(target=over.wait, daemon=True).start()
files = [open("/dev/null") for _ in range(5)]
print("grown", flush=True)
input()
"""


@pytest.fixture
def growing() -> Iterator["subprocess.Popen[str]"]:
    """A process of its own: threads and files of this one come and go with other tests."""
    command = [sys.executable, "-c", GROW]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        yield process
        process.kill()


def test_memory_descriptors_and_threads_are_seen(growing: "subprocess.Popen[str]") -> None:
    def sample(said: str) -> Sample:
        assert growing.stdout is not None
        assert growing.stdout.readline().strip() == said
        taken = sample_process(0.0, "growing", growing.pid)
        assert taken is not None
        return taken

    before = sample("begun")
    assert growing.stdin is not None
    growing.stdin.write("\n")
    growing.stdin.flush()
    after = sample("grown")
    assert after.rss - before.rss > 16 * MIB
    assert after.pss - before.pss > 16 * MIB
    assert after.fds - before.fds == 5
    assert after.threads - before.threads == 3


def test_a_process_that_has_ended_gives_no_sample() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
        assert sample_process(0.0, "ended", ended.pid) is None


def test_samples_as_csv(tmp_path: Path) -> None:
    file = tmp_path / "samples.csv"
    samples = [Sample(0.5, "redis", 10, 9, 3, 4), Sample(0.5, "teacher", 20, 19, 5, 6)]
    write_samples(file, samples, [RedisSample(0.5, 7, 2)])
    assert file.read_text().splitlines() == [
        "seconds,process,rss,pss,fds,threads,used_memory,keys",
        "0.5,redis,10,9,3,4,7,2",
        "0.5,teacher,20,19,5,6,,",
    ]
