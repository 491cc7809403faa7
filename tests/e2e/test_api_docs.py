"""The lines of docs/api.md, run as they stand there, against real processes."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.byte_level_model import write_byte_level_llama
from tests.teacher_process import serve_teacher

DOCUMENT = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(sh|python)\n(.*?)^```$", DOCUMENT, re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class System:
    """Where the processes of the test answer."""

    url: str
    address: str
    tokenizer: Path


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("model")
    write_byte_level_llama(folder)
    sockets = tmp_path_factory.mktemp("sockets")
    address = f"unix://{sockets}/intake.sock"
    with serve_teacher(folder, sockets, ["--device", "cpu"]) as teacher:
        command = [sys.executable, "-m", "deploy.cli", "services", "run", "--listen", address]
        command += ["--teachers", teacher, "--tokenizer", str(folder), "--http-listen"]
        services = subprocess.Popen([*command, "127.0.0.1:0"], stderr=subprocess.PIPE, text=True)
        try:
            assert services.stderr is not None
            url = next(
                found[0]
                for line in services.stderr
                if (found := re.search(r"http://127\.0\.0\.1:\d+", line))
            )
            deadline = time.monotonic() + 240
            while httpx.get(f"{url}/ready").status_code != 200:
                assert time.monotonic() < deadline, "the gateway is not ready"
                time.sleep(0.1)
            yield System(url, address, folder)
        finally:
            services.terminate()
            services.communicate(timeout=240)


def test_every_line_of_the_shell_does_what_is_said(system: System, tmp_path: Path) -> None:
    script = "\n".join(
        f"echo '## {number}'\n{block}\necho"
        for number, (kind, block) in enumerate(BLOCKS)
        if kind == "sh"
    )
    bin_dir = Path(sys.executable).parent
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": f"{bin_dir}:{os.environ['PATH']}",
            "COUNTERHINT_URL": system.url,
            "ADDRESS": system.address,
            "TOKENIZER": str(system.tokenizer),
        },
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    parts = re.split(r"^## (\d+)$", done.stdout, flags=re.MULTILINE)[1:]
    printed = {
        int(number): text.strip() for number, text in zip(parts[::2], parts[1::2], strict=True)
    }

    def reply_to(text: str) -> str:
        (number,) = (n for n, (_, block) in enumerate(BLOCKS) if text in block)
        return printed[number]

    scored = json.loads(reply_to('"top_k": 3'))
    tokens = scored["responses"][0]["tokens"]
    assert "".join(tokens["text"]) == "2+3 = 5"
    assert len(tokens["e_ctr"]) == len(tokens["id"])
    assert set(tokens["log_probs"]) == {"correct", "wrong 1", "wrong 2", "unhinted"}
    assert [len(best) for best in tokens["top_k"]["correct"]] == [3] * len(tokens["id"])
    assert json.loads(reply_to("A friend says 5"))["responses"][0]["tokens"]["modulated"]
    assert json.loads(reply_to('"tau": 0.05'))["gate"]["tau"] == 0.05
    lines = [json.loads(line) for line in reply_to("x-ndjson").splitlines()]
    assert [*(next(iter(line)) for line in lines)] == ["head", *["response"] * 3, "end"]
    assert json.loads(reply_to("until curl"))["result"]["responses"][0]["text"] == "5"
    assert json.loads(reply_to('"pairs": [[0, 0]'))["state"] in ("queued", "claimed", "done")
    choices = json.loads(reply_to("/v1/completions"))["choices"]
    assert [choice["text"] for choice in choices] == ["2+3 = 5", "2+3 = 6"]
    shown = re.search(r"```json\n(.*?)```", DOCUMENT, re.DOTALL)
    assert shown is not None
    assert json.loads(reply_to("my-request")) == json.loads(shown[1])
    rows = pq.read_table(tmp_path / "scores.parquet").to_pylist()
    assert [len(row["wrong_hints"]) for row in rows] == [2, 2, 1, 1]


def test_the_example_in_python_does_what_is_said(
    system: System, capsys: pytest.CaptureFixture[str]
) -> None:
    ((_, example),) = ((kind, block) for kind, block in BLOCKS if kind == "python")
    exec(compile(example, "docs/api.md", "exec"), {"address": system.address})
    printed = capsys.readouterr().out.splitlines()
    found = [np.fromstring(line.strip("[]"), sep=" ") for line in printed]
    assert [len(e_ctr) for e_ctr in found] == [3, 2]
    assert all(np.isfinite(e_ctr).all() for e_ctr in found)
