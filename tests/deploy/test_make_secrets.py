import hashlib
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography import x509

from counterhint.tokens import read_table
from tests.deploy.compose_project import REPOSITORY, content_of, services

SCRIPT = REPOSITORY / "deploy" / "make-secrets"


def make_secrets(folder: Path, *runs: str) -> str:
    made = subprocess.run(
        [SCRIPT, *runs],
        env={
            "PATH": "/usr/bin:/bin",
            "COUNTERHINT_SECRETS": str(folder),
            "COUNTERHINT_HOSTS": "score.example.org,192.0.2.7",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    return made.stdout


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
    def digests() -> dict[str, str]:
        files = (file for file in folder.iterdir() if file.suffix != ".json")
        return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}

    before = digests()
    assert make_secrets(folder) == ""
    assert digests() == before
    assert "geometry.token" in make_secrets(folder, "geometry")
    assert digests().keys() - before.keys() == {"geometry.token"}
    assert digests().items() >= before.items()


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
