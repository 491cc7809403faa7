from collections.abc import Sequence
from pathlib import Path

from deploy.local.background import (
    Pages,
    Teacher,
    background_services,
    is_serving,
    scoring_address,
)


def test_one_teacher_has_plain_names(tmp_path: Path) -> None:
    teacher = Teacher("large", tmp_path / "models" / "teacher", tmp_path / "weights")
    services = list(background_services([teacher], tmp_path, tmp_path / "logs", {}))
    assert [service.name for service in services] == ["redis", "teacher", "services"]
    words = services[1].command
    assert words[words.index("--model") + 1] == str(teacher.model)


def test_pages_show_the_runs_beside_the_own_one(tmp_path: Path) -> None:
    teacher = Teacher("self", tmp_path / "models" / "student", tmp_path / "weights")
    pages = Pages.on_free_port(tmp_path / "runs")
    services = list(background_services([teacher], tmp_path, tmp_path / "logs", {}, pages))
    assert [service.name for service in services] == ["redis", "teacher", "services", "gateway"]
    words = services[3].command
    assert words_after(words, "--redis") == words_after(services[2].command, "--redis")
    assert words_after(words, "--tokenizer") == str(teacher.model)
    assert words_after(words, "--runs-dir") == str(tmp_path / "runs")
    assert words_after(words, "--http-listen") == pages.listen
    assert not pages.is_ready()


def words_after(words: Sequence[str], flag: str) -> str:
    return words[words.index(flag) + 1]


def test_each_teacher_has_a_queue_of_its_own(tmp_path: Path) -> None:
    teachers = [
        Teacher("large", tmp_path / "a", tmp_path),
        Teacher("self", tmp_path / "b", tmp_path),
    ]
    services = list(background_services(teachers, tmp_path, tmp_path / "logs", {}))
    names = ["redis", "teacher-large", "services-large", "teacher-self", "services-self"]
    assert [service.name for service in services] == names
    assert len({service.log for service in services}) == 5

    def value(service: int, flag: str) -> str:
        words = services[service].command
        return words[words.index(flag) + 1]

    for place, teacher in ((1, teachers[0]), (3, teachers[1])):
        assert value(place, "--model") == str(teacher.model)
        assert value(place + 1, "--teachers") == value(place, "--listen")
        assert value(place + 1, "--listen") == scoring_address(tmp_path, teacher.name)
    assert value(2, "--redis") != value(4, "--redis")


def test_nobody_serves_at_an_unused_address(tmp_path: Path) -> None:
    assert not is_serving(f"unix://{tmp_path / 'nobody.sock'}")
