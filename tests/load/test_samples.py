import os
import subprocess
import sys
import threading
from pathlib import Path

from tests.load.samples import MIB, RedisSample, Sample, sample_process, write_samples


def of_this_process() -> Sample:
    sample = sample_process(0.0, "me", os.getpid())
    assert sample is not None
    return sample


def test_memory_descriptors_and_threads_are_seen(tmp_path: Path) -> None:
    before = of_this_process()
    held = bytearray(b"\1") * (32 * MIB)
    over = threading.Event()
    threads = [threading.Thread(target=over.wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    files = [(tmp_path / str(number)).open("w") for number in range(5)]
    after = of_this_process()
    over.set()
    for thread in threads:
        thread.join()
    for file in files:
        file.close()
    assert after.rss - before.rss > len(held) / 2
    assert after.pss - before.pss > len(held) / 2
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
