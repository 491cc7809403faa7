import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from counterhint.errors import InputError
from student_trainer.report import write_report
from student_trainer.report.build import json_for_script
from tests.student_trainer.report.run_folders import write_rows

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


def page_rollouts(page: Elements) -> list[dict[str, Any]]:
    rollouts: list[dict[str, Any]] = json.loads(page.scripts[0])["rollouts"]
    return rollouts


def edit_rows(path: Path, **changes: Any) -> None:
    rows = [json.loads(line) | changes for line in path.read_text().splitlines()]
    write_rows(path, rows)


def test_the_page_shows_the_run(run_dir: Path) -> None:
    report = write_report(run_dir)
    assert report == run_dir / "report.html"
    text = parse(report).text
    for shown in (
        "Counterhint · run demo",
        "RLCSD: 44.5% → 78.1% of held-out problems solved",
        "1,024 samples each",
        "39.12 → 37.4",
        "0.6123 → 0.4411",
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


def test_the_page_holds_the_rollouts_token_by_token(run_dir: Path) -> None:
    kept = [json.loads(line) for line in (run_dir / "rollouts.jsonl").read_text().splitlines()]
    shown = page_rollouts(parse(write_report(run_dir)))
    assert len(shown) == len(kept)
    assert {rollout["correct"] for rollout in shown} == {True, False}
    for rollout, row in zip(shown, kept, strict=True):
        assert rollout["tokens"] == row["tokens"]
        assert rollout["token_ids"] == row["token_ids"]
        assert rollout["selected"] == row["selected"]
        assert rollout["e_ctr"] == pytest.approx(row["e_ctr"], rel=1e-3)
        assert len(rollout["wrong_hints"]) == 3
        assert rollout["hints"] == row["hint_texts"]


def test_the_page_needs_nothing_from_outside(run_dir: Path) -> None:
    page = parse(write_report(run_dir))
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
    plain = parse(write_report(run_dir))
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
    attacked = parse(write_report(run_dir))
    assert "<script>alert(1)</script>" not in (run_dir / "report.html").read_text()
    assert len(attacked.scripts) == len(plain.scripts) == 2
    assert {tag for tag, _ in attacked.tags} == {tag for tag, _ in plain.tags}
    assert not any("onclick" in attributes for _, attributes in attacked.tags)
    first = page_rollouts(attacked)[0]
    assert first["problem"] == first["tokens"][0] == first["hints"]["wrong"][0] == EVIL


def test_json_in_a_script_survives_and_cannot_end_it() -> None:
    text = json_for_script({"a": EVIL})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"a": EVIL}


def test_a_run_without_rollouts_says_so(run_dir: Path) -> None:
    (run_dir / "rollouts.jsonl").unlink()
    page = parse(write_report(run_dir))
    assert "This run kept no rollouts." in page.text
    assert ("div", {"id": "viewer", "hidden": None}) in page.tags
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
    page = parse(write_report(run_dir))
    assert len(page_rollouts(page)) == 24
    assert json.loads(page.scripts[0])["scales"] == {"e_ctr": None, "e_c": None}
    assert ("div", {"id": "viewer"}) in page.tags
    assert "What it wrote" in page.text
    assert "The contrast" not in page.text
    assert "The one-sided signal" not in page.text
    assert "The student was warmed up" not in page.text.split("Recipe")[0]
    assert ("table", {"class": "classes"}) not in page.tags


def test_a_method_without_wrong_hints_shows_the_one_sided_signal(run_dir: Path) -> None:
    keep_only(run_dir, "correct_hint", "e_c")
    page = parse(write_report(run_dir))
    assert json.loads(page.scripts[0])["scales"]["e_ctr"] is None
    assert "The one-sided signal" in page.text
    assert "The contrast" not in page.text
    assert "of the one-sided signal falls on style tokens." in page.text
    assert "mean |e_c|" in page.text
    assert "mean |e_ctr|" not in page.text.split("Where the signal falls")[1].split("Recipe")[0]


def test_a_teacher_without_hints_is_described_as_one(run_dir: Path) -> None:
    keep_only(run_dir, "correct_hint", "e_c")
    recipe = yaml.safe_load((run_dir / "recipe.yaml").read_text())
    recipe["method"] = {"kind": "opd"}
    (run_dir / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    text = parse(write_report(run_dir)).text
    assert "both read the problem alone" in text
    assert "correct hint" not in text.split("Where the signal falls")[1].split("Choose")[0][:400]


def test_a_bare_run_gives_a_page_that_says_what_is_missing(tmp_path: Path) -> None:
    write_rows(tmp_path / "metrics.jsonl", [{"step": 1, "rollout/reward": 0.5}])
    text = parse(write_report(tmp_path)).text
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
    monkeypatch.setattr("student_trainer.report.token_signals.MAX_TOKENS", 200)
    page = parse(write_report(run_dir))
    shown = len(page_rollouts(page))
    assert shown < 24
    assert f"{shown} of the 24 rollouts kept" in page.text


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no steps"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []
