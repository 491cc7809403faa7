import hashlib
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography import x509

from counterhint.tokens import read_table
from tests.deploy.compose_project import REPOSITORY, content_of, services

SCRIPT = REPOSITORY / "deploy" / "make-secrets"


def run_script(
    folder: Path, *runs: str, hosts: str = "score.example.org,192.0.2.7"
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPT, *runs],
        env={
            "PATH": "/usr/bin:/bin",
            "COUNTERHINT_SECRETS": str(folder),
            "COUNTERHINT_HOSTS": hosts,
        },
        capture_output=True,
        text=True,
    )


def make_secrets(folder: Path, *runs: str) -> str:
    made = run_script(folder, *runs)
    assert made.returncode == 0, made.stderr
    return made.stdout


def digests(folder: Path) -> dict[str, str]:
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.iterdir()
        if file.is_file()
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "secrets"
    make_secrets(folder)
    return folder


def test_every_secret_of_compose_is_made(folder: Path) -> None:
    names = set(content_of("secrets", {"COUNTERHINT_SECRETS": str(folder)}))
    assert names <= {file.name for file in folder.iterdir()}
    used = {
        secret for service in services(None, {}).values() for secret in service.get("secrets", [])
    }
    assert used == names


def test_only_the_owner_enters_the_folder_and_containers_can_read_the_files(folder: Path) -> None:
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o644}


def test_a_second_time_only_new_tokens_are_made(folder: Path) -> None:
    before = digests(folder)
    assert make_secrets(folder) == ""
    assert digests(folder) == before
    assert "geometry.token" in make_secrets(folder, "geometry")
    after = digests(folder)
    assert after.keys() - before.keys() == {"geometry.token"}
    assert {name for name in before if after[name] != before[name]} == {"tokens.json"}


def test_what_was_removed_is_made_anew_and_fits(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "secrets"))
    for name in ("redis.password", "queue.yaml", "ca.pem", "server.pem", "server.key"):
        (copy / name).unlink()
    (copy / "maths.token").unlink()
    make_secrets(copy)
    password = (copy / "redis.password").read_text()
    assert f":{password}@" in (copy / "queue.yaml").read_text()
    assert hashlib.sha256(password.encode()).hexdigest() in (copy / "redis.acl").read_text()
    token = (copy / "maths.token").read_text().strip()
    assert hashlib.sha256(token.encode()).hexdigest() in (copy / "tokens.json").read_text()
    assert make_secrets(copy) == ""


@pytest.mark.parametrize(
    ("removed", "told"),
    [
        ("redis.password", "queue.yaml does not have the password of redis.password"),
        ("ca.pem", "of ca.pem, server.pem and server.key not all are there"),
        ("server.pem", "of ca.pem, server.pem and server.key not all are there"),
        ("server.key", "of ca.pem, server.pem and server.key not all are there"),
        ("tokens.json", "maths.token is not in tokens.json"),
        ("teacher-tokens.json", "dispatcher.token is not in teacher-tokens.json"),
    ],
)
def test_a_part_that_is_missing_is_told_and_nothing_is_made(
    folder: Path, tmp_path: Path, removed: str, told: str
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "secrets"))
    (copy / removed).unlink()
    before = digests(copy)
    made = run_script(copy)
    assert made.returncode == 2
    assert told in made.stderr
    assert digests(copy) == before


@pytest.mark.parametrize(
    ("file", "of", "told"),
    [
        ("redis.password", "grafana.password", "queue.yaml does not have the password"),
        ("ca.pem", "server.pem", "is not signed by ca.pem"),
        ("maths.token", "dispatcher.token", "maths.token is not in tokens.json"),
    ],
)
def test_files_that_do_not_fit_are_told(
    folder: Path, tmp_path: Path, file: str, of: str, told: str
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "secrets"))
    shutil.copy(copy / of, copy / file)
    made = run_script(copy)
    assert made.returncode == 2
    assert told in made.stderr


def test_a_key_of_another_certificate_and_a_file_that_is_none_are_told(
    folder: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "secrets"))
    make_secrets(tmp_path / "others")
    shutil.copy(tmp_path / "others" / "server.key", copy)
    (copy / "logic.token").write_text("")
    (copy / "redis.acl").unlink()
    (copy / "redis.acl").mkdir()  # as an engine makes it that mounts what is not there
    made = run_script(copy)
    assert made.returncode == 2
    assert "server.key is not the key of server.pem" in made.stderr
    assert made.stderr.count("is empty or no file: remove it") == 2


@pytest.mark.parametrize("name", ["operator", "dispatcher", "../maths", ""])
def test_names_that_are_no_runs_are_refused(folder: Path, name: str) -> None:
    before = digests(folder)
    assert run_script(folder, name).returncode == 2
    assert digests(folder) == before


def test_a_host_that_the_certificate_does_not_name_is_told(folder: Path) -> None:
    made = run_script(folder, hosts="192.0.2.7,other.example.org,192.0.2.8")
    assert made.returncode == 2
    assert "server.pem does not name other.example.org" in made.stderr
    assert "server.pem does not name 192.0.2.8" in made.stderr
    assert "192.0.2.7" not in made.stderr


def test_tokens_are_those_of_the_files_that_servers_get(folder: Path) -> None:
    runs = read_table(folder / "tokens.json")
    teachers = read_table(folder / "teacher-tokens.json")
    assert runs.runs.keys() >= {"maths", "logic", "first", "second"}
    assert runs.operators.keys() == {"operator"}
    assert teachers.operators.keys() == {"dispatcher"}
    token = (folder / "maths.token").read_text().strip()
    assert hashlib.sha256(token.encode()).hexdigest() in runs.model_dump_json()


def test_the_certificate_names_the_servers_and_further_hosts(folder: Path) -> None:
    certificate = x509.load_pem_x509_certificate((folder / "server.pem").read_bytes())
    authority = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
    certificate.verify_directly_issued_by(authority)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(names.get_values_for_type(x509.DNSName)) == {
        *("localhost", "teacher", "services", "gateway", "score.example.org")
    }
    assert {str(ip) for ip in names.get_values_for_type(x509.IPAddress)} == {
        "127.0.0.1",
        "192.0.2.7",
    }


def test_secrets_are_ignored_by_git_and_not_sent_to_the_builder() -> None:
    assert {".env", "deploy/secrets/"} <= set((REPOSITORY / ".gitignore").read_text().split("\n"))
    assert "deploy/secrets" in (REPOSITORY / ".dockerignore").read_text().split("\n")
