"""A training run whose queue loses everything on the way."""

import pytest
import yaml

from student_trainer.monitors import read_rows
from tests.faults.site import COUNTERHINT, Site
from tests.faults.test_redis import wipe
from tests.processes import wait_until
from tests.student_trainer.chain_student import write_chain_student

STEPS = 6


@pytest.mark.timeout(900)  # a minute and more on a busy machine
def test_training_goes_on_when_redis_comes_back_empty(site: Site) -> None:
    student, template = site.folder / "student", site.folder / "hint.txt"
    write_chain_student(student, width=32, heads=4, kv_heads=2)
    template.write_text("{{problem}} reference {{hint}} end")
    recipe = site.folder / "recipe.yaml"
    run_dir = site.folder / "run"
    content = {
        "run_dir": str(run_dir),
        "steps": STEPS,
        "stop_after_unmixed_steps": STEPS,
        "task": {"kind": "chain", "operations": 2},
        "student": {"model": str(student), "device": "cpu"},
        "prompts": {"hint_template": str(template)},
        "rollouts": {
            "prompts_per_step": 4,
            "group_size": 32,
            "max_new_tokens": 40,
            "max_rows": 64,
        },
        "method": {"kind": "rlcsd"},
        "scoring": {"address": site.intake},
        "evaluation": {"problems": 4},
    }
    recipe.write_text(yaml.safe_dump(content))
    address = f"unix://{site.folder}/teacher.sock"
    teacher = site.start(
        *COUNTERHINT, "teacher", "serve", "--model", str(student), "--listen", address
    )
    site.services(teacher=address)
    training = site.start(*COUNTERHINT, "train", str(recipe))
    metrics = run_dir / "metrics.jsonl"

    def steps() -> int:
        assert not training.ended, training.said
        return len(metrics.read_bytes().splitlines()) - 1 if metrics.exists() else -1

    def of_all_runs(count: str) -> int:
        return sum(getattr(run, count) for run in site.ask(lambda queue: queue.stats()))

    wait_until(lambda: steps() >= 1)
    with teacher.standing_still():  # so that training cannot end meanwhile
        wait_until(lambda: of_all_runs("claimed"))
        before = of_all_runs("done")
        wipe(site)
    assert training.wait() == 0, training.said
    rows = read_rows(metrics)
    assert [row["step"] for row in rows] == list(range(STEPS + 1))
    after = of_all_runs("done")
    scored = sum(row.get("scoring/groups", 0) for row in rows)
    assert before > 0
    assert after > 0
    assert before + after >= scored > 0
