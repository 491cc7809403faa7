"""A small run over any number of ranks: `python -m tests.student_trainer.sharded_run TASKS.json`.

Tasks say what to do; results go to files that the tests compare between numbers of ranks.
"""

import json
import os
import socket
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from student_trainer.batches import BatchConfig, Row, TokenBatch
from student_trainer.checkpoints import TrainingState, load_checkpoint, save_checkpoint
from student_trainer.forward import StudentForward
from student_trainer.importance import RolloutImportanceConfig
from student_trainer.losses import RlcsdConfig, SrpoConfig
from student_trainer.models import Student, StudentConfig, load_student
from student_trainer.optimizer import Optimizer, OptimizerConfig
from student_trainer.ranks import Ranks
from student_trainer.rollouts.base import SamplingRequest
from student_trainer.rollouts.built_in import BuiltInSampler
from student_trainer.scoring import TeacherScores
from student_trainer.sharding import gathered, shard, sum_gradients
from student_trainer.shards import whole
from student_trainer.teacher_weights import EmaTeacherConfig, TeacherWeights
from student_trainer.update import Updater
from tests.student_trainer.rollouts_of import make_rollout

PIECES, STEPS, ROWS = 8, 3, 7


@dataclass(frozen=True)
class Task:
    """What a run does: it reads a checkpoint if there is one, takes steps, and saves."""

    student: dict[str, Any]
    """The student's configuration."""
    out: str
    """Folder for `tensors.safetensors`, `checkpoints` and `weights`."""
    load: str | None = None
    """Checkpoint to begin with."""
    steps: int = STEPS
    """Steps to take."""


class ShardedRun:
    """The parts of a run that sharding touches."""

    def __init__(self, task: Task, ranks: Ranks) -> None:
        config = StudentConfig.model_validate(task.student)
        self.task, self.ranks, self.out = task, ranks, Path(task.out)
        self.student: Student = load_student(config, ranks)
        self.forward = StudentForward(
            self.student.model, gradient_checkpointing=config.gradient_checkpointing
        )
        shard(self.forward, self.student, ranks)
        self.optimizer = Optimizer(
            OptimizerConfig(lr=0.01, grad_clip=0.5), self.student.trainable(), STEPS
        )
        self.teacher = TeacherWeights(
            EmaTeacherConfig(decay=0.5, every=3), self.student, self.out / "weights", "run", ranks
        )
        self.tensors: dict[str, Tensor] = {}

    def go(self) -> Self:
        """Does the task."""
        if self.task.load is not None:
            parts = (self.student, self.optimizer, self.teacher, self.ranks)
            load_checkpoint(Path(self.task.load), *parts)
        for step in range(self.task.steps):
            self._note("rollouts", torch.from_numpy(self._sample(step)))
            self._take_step(step)
        state = TrainingState("run", self.task.steps, 0.0, None, {})
        folder = self.out / "checkpoints"
        save_checkpoint(folder, state, self.student, self.optimizer, self.teacher, 1, self.ranks)
        for name, tensor in self.state().items():
            self._note(name, whole(tensor.detach()))
        for name, tensor in self.student.full_tensors():
            self._note(f"full/{name}", tensor)
        self._update_by_methods()
        if self.ranks.first:
            save_file(self.tensors, self.out / "tensors.safetensors")
        return self

    def _update_by_methods(self) -> None:
        """An update by each of two methods: padded on one rank, packed on several."""
        own = [row for _, row in self.ranks.share(rows())]
        batch = BatchConfig(micro_batch_tokens=16, packing=self.ranks.count > 1)
        for config in (RlcsdConfig(), SrpoConfig(top_k_distill=2)):
            updater = Updater(
                self.student,
                self.forward,
                config.build(),
                self.optimizer,
                batch,
                RolloutImportanceConfig(level="token"),
                0.1,
                self.ranks,
                lambda *_: None,
            )
            corrected, importance = updater.corrected(own)
            metrics = updater.update(0, corrected, seed=0)
            for name, value in {**importance, **metrics}.items():
                self._note(f"update/{config.kind}/{name}", torch.tensor(value))
        for name, tensor in self.student.full_tensors():
            self._note(f"updated/{name}", tensor)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint holds."""
        sources = {
            "model": self.student.trainable(),
            "adam": self.optimizer.state_tensors(),
            "average": self.teacher.state_tensors(),
        }
        return {f"{kind}/{n}": t for kind, tensors in sources.items() for n, t in tensors.items()}

    def _note(self, name: str, tensor: Tensor) -> None:
        self.tensors[name] = tensor.clone().contiguous()

    def _sample(self, step: int) -> np.ndarray:
        """Greedy samples; each rank takes another number of steps to sample its own."""
        prompts = [np.array([3 + i, 9, 5], dtype=np.int32) for i in range(PIECES)]
        own = self.ranks.share(prompts)
        request = SamplingRequest(1, 4 + self.ranks.rank, 0.0, seed=0)
        with gathered(self.forward):
            groups = BuiltInSampler(self.student).sample_groups([p for _, p in own], request)
            found = {own[index][0]: samples[0].token_ids[:4] for index, samples in groups}
        every = {index: ids for part in self.ranks.gather(found) for index, ids in part.items()}
        rows = [np.pad(every[i], (0, 4 - len(every[i])), constant_values=-1) for i in range(PIECES)]
        return np.stack(rows)

    def _take_step(self, step: int) -> None:
        own = [piece for _, piece in self.ranks.share(pieces(step))]
        loss = torch.zeros(())
        for done, tokens in enumerate(own):
            sum_gradients(self.forward, self.student, last=done + 1 == len(own))
            with self.student.autocast():
                log_probs = self.forward(tokens).sampled
                part = -(log_probs * torch.linspace(-0.5, 1.0, len(log_probs))).sum() / PIECES
                part.backward()
            loss += part.detach()
        self._note(f"loss/{step}", self.ranks.sum({"loss": loss})["loss"])
        if step == 0:
            for name, parameter in self.student.trainable().items():
                assert parameter.grad is not None
                self._note(f"gradient/{name}", whole(parameter.grad))
        self._note(f"norm/{step}", torch.tensor(self.optimizer.update(step)))
        self.teacher.after_step(self.student, step + 1)


def pieces(step: int) -> list[TokenBatch]:
    """A step's micro-batches, of different lengths, with padding."""
    generator = torch.Generator().manual_seed(step)
    batches = []
    for index in range(PIECES):
        length = 6 + index % 3
        ids = torch.randint(3, 40, (2, length), generator=generator)
        mask = torch.ones_like(ids)
        mask[1, length - 2 :] = 0
        positions = torch.arange(length).expand(2, -1)
        predicting = torch.cat([torch.arange(2, length - 1), torch.arange(2, length - 3) + length])
        targets = ids.flatten()[predicting + 1]
        batches.append(TokenBatch(ids, positions, mask, predicting, targets))
    return batches


def rows() -> list[Row]:
    """Training rows of different lengths; some tokens, and one row, without the teacher."""
    random = np.random.default_rng(0)
    made = []
    for index in range(ROWS):
        length = 3 + index % 4
        rollout = make_rollout(True, tokens=random.integers(3, 40, length).tolist())
        rollout = replace(rollout, entropies=None)

        def numbers(*shape: int) -> np.ndarray:
            return random.uniform(-4, -3, shape).astype(np.float32)

        scores = TeacherScores(
            scored=np.arange(length) != index,
            sampled=numbers(length),
            wrong=numbers(1 + index % 2, length),
            support_ids=np.tile(np.array([5, 9], np.int32), (length, 1)),
            support=numbers(length, 2),
            entropy=-numbers(length),
        )
        prompt = random.integers(3, 40, 2 + index % 3).astype(np.int32)
        advantage = (-1) ** index * (0.5 + index / 10)
        teacher = None if index == 3 else scores
        made.append(Row(prompt, rollout, advantage, teacher, numbers(length)))
    return made


def main() -> None:
    """Does tasks on several ranks; the processes are forks, so that torch is imported once."""
    for count, tasks in json.loads(Path(sys.argv[1]).read_text()):
        with socket.socket() as reserved:
            # Keeps the port from others until the first rank listens there, with SO_REUSEADDR too.
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            reserved.bind(("127.0.0.1", 0))
            port = reserved.getsockname()[1]
            torch.multiprocessing.start_processes(
                _work, (count, port, tasks), nprocs=count, start_method="fork"
            )


def _work(rank: int, count: int, port: int, tasks: list[dict[str, Any]]) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
    os.environ |= {"MASTER_ADDR": "127.0.0.1"} | {key: str(value) for key, value in place.items()}
    ranks = Ranks()
    for task in tasks:
        ShardedRun(Task(**task), ranks).go()
    ranks.close()


def write_tasks(file: Path, tasks: list[tuple[int, list[Task]]]) -> None:
    """What `main` reads: numbers of ranks, and what each of them does."""
    file.write_text(
        json.dumps([(count, [asdict(task) for task in group]) for count, group in tasks])
    )


if __name__ == "__main__":
    main()
