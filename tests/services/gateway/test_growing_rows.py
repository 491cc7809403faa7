import json
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from services.gateway.growing_rows import GrowingRows


def lines(*steps: int) -> str:
    return "".join(json.dumps({"step": step, "text": "é" * step}) + "\n" for step in steps)


def steps_of(rows: GrowingRows, after: int = -1) -> list[int]:
    rows.refresh()
    return [row["step"] for row in rows.after(after)]


def test_rows_appear_as_their_lines_are_finished(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    rows = GrowingRows(file)
    assert steps_of(rows) == []
    assert rows.last_step is None
    file.write_text(lines(0, 1) + lines(2)[:-3])
    assert steps_of(rows) == [0, 1]
    with file.open("a") as end:
        end.write(lines(2)[-3:] + "no row\n[]\n" + lines(3))
    assert steps_of(rows) == [0, 1, 2, 3]
    assert steps_of(rows, after=1) == [2, 3]
    assert rows.last_step == 3


def test_a_file_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text(lines(0, 1, 2))
    rows = GrowingRows(file)
    assert steps_of(rows) == [0, 1, 2]
    aside = tmp_path / "aside"
    aside.write_text(lines(0, 1) + lines(5, 6, 7, 8))  # longer than what was read
    aside.replace(file)
    assert steps_of(rows) == [0, 1, 5, 6, 7, 8]
    file.unlink()
    assert steps_of(rows) == []


@given(
    steps=st.lists(st.integers(0, 6), max_size=12).map(sorted),
    cuts=st.lists(st.integers(0, 400), max_size=4).map(sorted),
    count=st.integers(1, 4),
)
def test_however_a_file_grows_its_last_steps_are_found(
    steps: list[int], cuts: list[int], count: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rollouts.jsonl"
        rows, content = GrowingRows(file), lines(*steps).encode()
        for cut in (*cuts, len(content)):
            with file.open("ab") as end:
                end.write(content[file.stat().st_size : cut])
            rows.refresh()
        wanted = sorted(set(steps))[-count:]
        assert [row["step"] for row in rows.last_steps(count)] == [s for s in steps if s in wanted]
