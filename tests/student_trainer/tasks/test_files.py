import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from counterhint.errors import InputError
from student_trainer.tasks.files import DataFileError, FileTask, FileTaskConfig

Row = Mapping[str, object]


def rows(start: int, stop: int) -> list[Row]:
    return [{"problem": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(start, stop)]


def write(path: Path, rows: Sequence[Row]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def build(train: Path, **config: object) -> FileTask:
    config = {"train": train, "verifier": "boxed_math", **config}
    if "heldout" not in config:
        config.setdefault("heldout_fraction", 0.25)
    return FileTaskConfig.model_validate(config).build()


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_train_and_heldout_files(tmp_path: Path, suffix: str) -> None:
    extras = {"solution": "Add one: \\boxed{2}", "id": "first", "source": "by hand"}
    train = write(tmp_path / f"train{suffix}", [{**rows(1, 2)[0], **extras}, *rows(2, 5)])
    heldout = write(tmp_path / f"heldout{suffix}", rows(5, 8))
    task = build(train, heldout=heldout)

    problems = {p.text: p for p in (task.train_problem(i) for i in range(4))}
    assert len(problems) == 4
    first = problems["What is 1 + 1?"]
    assert (first.id, first.answer, first.solution) == ("first", "2", "Add one: \\boxed{2}")
    assert problems["What is 2 + 1?"].solution is None
    assert [p.text for p in task.heldout_problems(2)] == ["What is 5 + 1?", "What is 6 + 1?"]
    assert task.verify(first, "so \\boxed{2.0}").correct
    assert task.verify(first, "so \\boxed{3}").answer == "3"
    assert task.verify(first, "so 2").answer is None
    assert "boxed" in task.answer_format


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_whole_numbers_are_answers(tmp_path: Path, suffix: str) -> None:
    data = [{"problem": f"{n} + 1", "answer": n + 1, "id": n} for n in range(40)]
    problem = build(write(tmp_path / f"d{suffix}", data)).heldout_problems(1)[0]
    assert problem.answer == str(int(problem.id) + 1)


def test_endless_training_order(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", rows(0, 40))
    task = build(path)
    count = len({task.train_problem(i).id for i in range(200)})
    passes = [[task.train_problem(e * count + i).id for i in range(count)] for e in range(3)]
    assert sorted(passes[0]) == sorted(passes[1]) == sorted(passes[2])
    assert len(set(passes[0])) == count
    assert passes[0] != passes[1] != passes[2]
    again = build(path)
    assert again.train_problem(count + 3).id == passes[1][3]
    assert [again.train_problem(i).id for i in range(count)] == passes[0]
    other = build(path, seed=1)
    assert [other.train_problem(i).id for i in range(count)] != passes[0]


def test_heldout_fraction_is_disjoint_even_with_copies(tmp_path: Path) -> None:
    data = rows(0, 60)
    copies = [{**row, "problem": f"  {row['problem']}\n"} for row in data]
    task = build(write(tmp_path / "d.jsonl", [*data, *copies]))
    train = {task.train_problem(i).text.strip() for i in range(120)}
    heldout = [p.text.strip() for p in task.heldout_problems(60 - len(train))]
    assert 5 < len(heldout) < 30
    assert len(set(heldout)) == len(heldout)
    assert train.isdisjoint(heldout)
    with pytest.raises(ValueError, match=rf"asked for, but .*d\.jsonl gives only {len(heldout)}"):
        task.heldout_problems(len(heldout) + 1)


def test_knights_knaves_file(tmp_path: Path) -> None:
    data = [
        {"problem": f"Puzzle {n}", "answer": "Ann is a knight, and Bob is a knave."}
        for n in range(30)
    ]
    path = write(tmp_path / "d.jsonl", data)
    task = build(path, verifier="knights_knaves")
    assert task.verify(task.train_problem(0), "So Bob is a knave and Ann is a knight.").correct
    write(path, [*data, {"problem": "p", "answer": "42"}])
    with pytest.raises(DataFileError, match=r"line 31 of .*'42': .*each person one role"):
        build(path, verifier="knights_knaves")


GOOD = b'{"problem": "1 + 1", "answer": "2"}\n'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            b'{"problem": "p", "answer": ',
            r"is not JSON \(Expecting value at column \d\d\).*per line",
        ),
        (b"[1, 2]", r"is no JSON object: write"),
        (b'{"problem": "p"}', r"has no 'answer': add it"),
        (b'{"problem": null, "answer": "1"}', r"has no 'problem': add it"),
        (b'{"problem": " ", "answer": "1"}', r"has an empty 'problem'"),
        (b'{"problem": "p", "answer": 0.10}', r"'answer' that is float, not text: .*quotes"),
        (b'{"problem": "p", "answer": true}', r"'answer' that is bool, not text"),
        (b'{"problem": "p", "answer": "$$"}', r"answer of no use, '\$\$': the answer is empty"),
        (b'{"problem": "p", "answer": "1", "solution": 3.5}', r"'solution' that is float"),
        (b'{"problem": "\xff", "answer": "1"}', r"is not UTF-8"),
        (b"[" * 100_000, r"cannot be read as JSON"),
        (b'{"problem": "p", "answer": ' + b"1" * 5000 + b"}", r"cannot be read as JSON"),
    ],
)
def test_broken_line_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_bytes(GOOD + b"\n" + line + b"\n" + GOOD)
    with pytest.raises(DataFileError, match=rf"^line 3 of .*broken\.jsonl .*{message}"):
        build(path)


def test_broken_parquet(tmp_path: Path) -> None:
    path = tmp_path / "d.parquet"
    write(path, [*rows(0, 3), {"problem": "p", "answer": None}])
    with pytest.raises(DataFileError, match=r"^row 4 of .*d\.parquet has no 'answer'"):
        build(path)
    write(path, [{"question": "p", "answer": "1"}])
    with pytest.raises(DataFileError, match="no column 'problem', only question, answer: rename"):
        build(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataFileError, match=r"d\.parquet is no readable Parquet file"):
        build(path)


def test_unusable_files(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match=r"none\.jsonl does not exist: correct the path"):
        build(tmp_path / "none.jsonl")
    with pytest.raises(DataFileError, match=r"d\.csv is neither"):
        build(tmp_path / "d.csv")
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    with pytest.raises(DataFileError, match="holds no problems"):
        build(empty)
    one = write(tmp_path / "one.jsonl", rows(0, 1))
    with pytest.raises(DataFileError, match="leaves no problem to train on"):
        build(one, heldout_fraction=0.999999)


def test_heldout_problem_among_the_training_problems_is_refused(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", rows(0, 4))
    heldout = write(
        tmp_path / "heldout.jsonl", [*rows(8, 9), {"problem": " What is  2 + 1?", "answer": "3"}]
    )
    message = r"line 2 of .*heldout\.jsonl holds the same problem as line 3 of .*train\.jsonl"
    with pytest.raises(DataFileError, match=message):
        build(train, heldout=heldout)


def test_id_that_is_used_twice_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", [{**row, "id": "same"} for row in rows(0, 2)])
    with pytest.raises(DataFileError, match=r"line 2 of .* same id 'same' as line 1 of"):
        build(path)


@pytest.mark.parametrize("extra", [{}, {"heldout": "h.jsonl", "heldout_fraction": 0.1}])
def test_exactly_one_source_of_heldout_problems(extra: dict[str, object]) -> None:
    config = {"train": "t.jsonl", "verifier": "boxed_math", **extra}
    with pytest.raises(ValidationError, match="set exactly one of them"):
        FileTaskConfig.model_validate(config)


def test_problems_that_are_only_evaluated_on(tmp_path: Path) -> None:
    heldout = write(tmp_path / "heldout.jsonl", [*rows(5, 8), *rows(5, 6)])
    task = FileTaskConfig(heldout=heldout, verifier="boxed_math").build()
    assert task.heldout_count == 3  # a copy counts once
    assert len(task.heldout_problems(3)) == 3
    with pytest.raises(InputError, match=r"task\.train is missing"):
        task.train_problem(0)
    with pytest.raises(ValidationError, match=r"a share of task\.train"):
        FileTaskConfig(heldout_fraction=0.5, verifier="boxed_math")
