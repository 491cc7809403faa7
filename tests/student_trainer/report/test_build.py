import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from counterhint.command_line import EXIT_BAD_INPUT, EXIT_DONE, run_command
from counterhint.errors import InputError
from student_trainer.cli import Report
from student_trainer.report import write_report
from student_trainer.report.build import json_for_script
from tests.student_trainer.report.run_folders import write_rows, write_run

EVIL = "</script><script>alert(1)</script><!-- <b onclick='x'>&amp;\u2028"


class Elements(HTMLParser):
    """Collects the page's start tags, the text outside scripts, and the scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.text += data


def parse(report: Path) -> Elements:
    page = Elements()
    page.feed(report.read_text(encoding="utf-8"))
    page.close()
    return page


def write(run_dir: Path) -> Path:
    return write_report([run_dir], run_dir / "report.html")


def page_rollouts(page: Elements) -> list[dict[str, Any]]:
    (run,) = json.loads(page.scripts[0])["runs"]
    rollouts: list[dict[str, Any]] = run["rollouts"]["responses"]
    return rollouts


def edit_rows(path: Path, **changes: Any) -> None:
    rows = [json.loads(line) | changes for line in path.read_text().splitlines()]
    write_rows(path, rows)


def test_the_page_shows_the_run(run_dir: Path) -> None:
    report = write(run_dir)
    assert report == run_dir / "report.html"
    text = parse(report).text
    for shown in (
        "Counterhint · run demo",
        "RLCSD: 44.5% → 78.1% of held-out problems solved",
        "over 1,024 sampled answers",
        "from 39.12 to 37.4 tokens",
        "from 0.6123 to 0.4411 nats",
        "12,345,678",
        "3,456,789",
        "3.571×",
        "72.0% of the tokens saved",
        "3 min 51 s in all",
        "scoring wait",
        "models/tiny/student",
        "of the contrast falls on task tokens",
        "The student was warmed up to write differently under a hint.",
        "operations: 4",
    ):
        assert shown in text, shown
    assert not (run_dir / "report.html.new").exists()


def test_the_page_shows_several_runs(run_dir: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other")
    (other / "rollouts.jsonl").unlink()
    page = parse(write_report([run_dir, other], tmp_path / "new" / "both.html"))
    runs = json.loads(page.scripts[0])["runs"]
    assert [run["name"] for run in runs] == ["demo", "other"]
    assert "2 runs side by side" in page.text
    assert page.text.count("44.5% → 78.1%") == 2
    assert "other: This run kept no rollouts." in page.text
    assert "demo: " not in page.text
    assert "All settings of other, as resolved" in page.text


def test_the_page_needs_nothing_from_outside(run_dir: Path) -> None:
    page = parse(write(run_dir))
    named = [
        value
        for tag, attributes in page.tags
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "action", "data") and not (value or "").startswith("#")
    ]
    assert named == []
    html = (run_dir / "report.html").read_text(encoding="utf-8")
    assert "@import" not in html
    assert "url(" not in html
    urls = set(re.findall(r"[a-z]+://[^\s\"'<>]+", html))
    assert urls == {"http://www.w3.org/2000/svg"}  # a name, never fetched
    assert re.findall(r"fetch\(|XMLHttpRequest|innerHTML|eval\(", html) == []


def test_text_from_the_run_never_becomes_markup(run_dir: Path) -> None:
    plain = parse(write(run_dir))
    edit_rows(
        run_dir / "rollouts.jsonl",
        problem=EVIL,
        answer=EVIL,
        response_answer=EVIL,
        problem_id=EVIL,
        hint_texts={"correct": EVIL, "wrong": [EVIL]},
        tokens=[EVIL],
        token_ids=[0],
        token_classes=[EVIL],
        **{key: [0.5] for key in ("student", "correct_hint", "e_c", "e_ctr", "modulated")},
        wrong_hints=[[0.5]],
        selected=[True],
    )
    recipe = yaml.safe_load((run_dir / "recipe.yaml").read_text())
    recipe["student"]["model"] = recipe["report"]["note"] = recipe["task"]["kind"] = EVIL
    (run_dir / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    summary = json.loads((run_dir / "summary.json").read_text())
    summary |= {"method": EVIL, "teacher": EVIL, "seconds_by_stage": {EVIL: 3.0}}
    (run_dir / "summary.json").write_text(json.dumps(summary))
    attacked = parse(write(run_dir))
    assert "<script>alert(1)</script>" not in (run_dir / "report.html").read_text()
    assert len(attacked.scripts) == len(plain.scripts) == 2
    assert {tag for tag, _ in attacked.tags} == {tag for tag, _ in plain.tags}
    assert not any("onclick" in attributes for _, attributes in attacked.tags)
    first = page_rollouts(attacked)[0]
    assert first["problem"] == first["tokens"]["text"][0] == first["hints"]["wrong 1"] == EVIL


def test_json_in_a_script_survives_and_cannot_end_it() -> None:
    text = json_for_script({"a": EVIL})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"a": EVIL}


def test_a_run_without_rollouts_says_so(run_dir: Path) -> None:
    (run_dir / "rollouts.jsonl").unlink()
    page = parse(write(run_dir))
    assert "This run kept no rollouts." in page.text
    assert page_rollouts(page) == []


def keep_only(run_dir: Path, *signals: str) -> None:
    """Takes the teacher's numbers out of the rollouts, but for those named."""
    teachers = {"correct_hint", "wrong_hints", "e_c", "e_ctr", "modulated", "selected"}
    rows = [json.loads(line) for line in (run_dir / "rollouts.jsonl").read_text().splitlines()]
    left = [
        {key: value for key, value in row.items() if key not in teachers - set(signals)}
        for row in rows
    ]
    write_rows(run_dir / "rollouts.jsonl", left)


def test_a_method_without_a_teacher_shows_what_was_written(run_dir: Path) -> None:
    keep_only(run_dir)
    edit_rows(run_dir / "rollouts.jsonl", hint_texts=None)
    page = parse(write(run_dir))
    assert len(page_rollouts(page)) == 24
    assert {one["tokens"]["e_c"] for one in page_rollouts(page)} == {None}
    assert "What it wrote" in page.text
    assert "Its rollouts carry no teacher’s signal." in page.text
    assert "The contrast" not in page.text
    assert "The one-sided signal" not in page.text
    assert "The student was warmed up" not in page.text.split("Recipe")[0]


def test_a_method_without_wrong_hints_shows_the_one_sided_signal(run_dir: Path) -> None:
    keep_only(run_dir, "correct_hint", "e_c")
    text = parse(write(run_dir)).text
    assert "The one-sided signal" in text
    assert "The contrast" not in text
    assert "of the one-sided signal falls on style tokens." in text


def test_a_teacher_without_hints_is_described_as_one(run_dir: Path) -> None:
    keep_only(run_dir, "correct_hint", "e_c")
    recipe = yaml.safe_load((run_dir / "recipe.yaml").read_text())
    recipe["method"] = {"kind": "opd"}
    (run_dir / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    text = parse(write(run_dir)).text
    assert "both read the problem alone" in text
    assert "correct hint" not in text.split("Where the signal falls")[1].split("Choose")[0][:400]


def test_a_bare_run_gives_a_page_that_says_what_is_missing(tmp_path: Path) -> None:
    write_rows(tmp_path / "metrics.jsonl", [{"step": 1, "rollout/reward": 0.5}])
    text = parse(write(tmp_path)).text
    for shown in (
        "accuracy not measured",
        "has not written its summary",
        "Not recorded in this run: held-out accuracy",
        "kept no rollouts",
        "No scoring was done",
        "has not written its times by stage",
        "holds no recipe.yaml",
    ):
        assert shown in text, shown


def test_thinning_out_is_said(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("student_trainer.report.shown_run.MAX_TOKENS", 200)
    page = parse(write(run_dir))
    shown = len(page_rollouts(page))
    assert shown < 24
    assert f"{shown} of the 24 rollouts kept" in page.text


def test_folders_that_cannot_be_shown_are_refused(tmp_path: Path, run_dir: Path) -> None:
    page = tmp_path / "page.html"
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no steps"):
        write_report([run_dir, tmp_path / "empty"], page)
    with pytest.raises(InputError, match="is given twice"):
        write_report([run_dir, run_dir], page)
    with pytest.raises(InputError, match="is a folder: name a file"):
        write_report([run_dir], tmp_path)
    assert not page.exists()


def test_the_command_says_where_the_page_is(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(Report, "counterhint report", [str(run_dir)]) == EXIT_DONE
    assert capsys.readouterr().out == f"Wrote {run_dir / 'report.html'}\n"
    both = [str(run_dir), str(write_run(tmp_path / "other"))]
    assert run_command(Report, "counterhint report", both) == EXIT_BAD_INPUT
    assert "2 runs: say where their page goes with --out FILE.html" in capsys.readouterr().err
    page = tmp_path / "both.html"
    assert run_command(Report, "counterhint report", [*both, "--out", str(page)]) == EXIT_DONE
    assert page.is_file()
