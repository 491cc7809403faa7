"""Where and how rollouts are scored."""

from pathlib import Path

from pydantic import Field

from student_trainer.config import Config


class ScoringConfig(Config):
    """Where and how rollouts are scored."""

    address: str = "127.0.0.1:50050"
    """`host:port` or `unix:///path` of an intake or of a teacher."""
    token_file: Path | None = None
    """File that holds the run's token, for a server that asks for one. What this and the next keys
    leave out comes from `COUNTERHINT_TOKEN`, `COUNTERHINT_TOKEN_FILE` and `COUNTERHINT_TLS_CA`,
    `…_CERT`, `…_KEY`."""
    tls_ca: Path | None = None
    """Authorities (PEM) of the server's certificate; with it the server is spoken to by TLS."""
    tls_cert: Path | None = None
    """The trainer's own certificate chain (PEM), for a server that asks for one."""
    tls_key: Path | None = None
    """The key of `tls_cert` (PEM, not encrypted)."""
    insecure: bool = False
    """Whether the token may leave this machine in plaintext."""
    timeout: float = Field(600.0, gt=0)
    """Seconds that a job may take, tries included."""
    connect_timeout: float = Field(60.0, gt=0)
    """Seconds to wait for a teacher when the run starts."""
    max_rescores: int = Field(3, ge=0)
    """How often a group is scored again whose scores came back under two weights revisions, before
    the run ends."""
    teacher_tokenizer: Path | None = None
    """Folder of the teacher's tokenizer with its chat template, for a teacher whose tokenizer or
    chat template is not the student's. It makes what the teacher reads; where tokenizers differ,
    responses are rewritten in the teacher's tokens and aligned by their bytes."""
