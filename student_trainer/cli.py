"""The trainer's commands."""

import asyncio
import dataclasses
import json
import logging
import os
import sys
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from counterhint.command_line import EXIT_DONE, EXIT_NEGATIVE, Command
from counterhint.contrast import Gate
from counterhint.errors import InputError
from counterhint.heap import bound_heap
from counterhint.logs import LoggedCommand, LogLevel


class Train(LoggedCommand):
    """Train a student by a recipe.

    example: counterhint train recipes/tiny.yaml run_dir=runs/mine optimizer.lr=2e-4
             counterhint train recipes/tiny.yaml run_dir=runs/mine resume=true
             counterhint train recipes/tiny.yaml include=recipes/tiny/methods/sdpo.yaml
             counterhint train recipes/paper/qwen3-4b-math.yaml --dry-run
             torchrun --nproc-per-node 8 --no-python counterhint train recipes/tiny.yaml

    SIGTERM ends it after the step under way, with a checkpoint to resume from and exit code 143.

    Values: key=value > environment (COUNTERHINT_TRAIN_OPTIMIZER__LR=2e-4) > the recipe.
    """

    model_config = SettingsConfigDict(env_prefix="COUNTERHINT_TRAIN_CLI_")

    recipe: CliPositionalArg[Path]
    """The recipe, a YAML file."""
    overrides: CliPositionalArg[list[str]] = Field([])
    """key=value: values that replace those of the recipe; dotted keys, YAML values. include=FILE
    lays another file over the recipe."""
    dry_run: bool = False
    """Check everything that can be checked without loading weights, and train nothing. Exit code 1
    when something would keep the run from starting or from ending."""
    json_: bool = Field(False, alias="json")
    """With --dry-run: print JSON instead of a table."""
    log_level: LogLevel = "warning"
    """The least that is logged (or COUNTERHINT_LOG_LEVEL)."""

    def run(self) -> int:
        """Trains, and prints where the results are."""
        if self.dry_run:
            return self._check()
        if self.json_:
            raise InputError("--json goes with --dry-run; a run writes its summary.json")
        self.start_logs("trainer")
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        from student_trainer.recipe import load_recipe

        recipe = load_recipe(self.recipe, self.overrides, os.environ)
        from student_trainer.preemption import Preempted
        from student_trainer.trainer import Trainer

        try:
            with Trainer(recipe) as trainer:
                summary = trainer.run()
        except Preempted as stop:
            print(
                f"Stopped after step {stop.steps_done}; resume=true goes on from the checkpoint "
                f"in {recipe.run_dir}",
                file=sys.stderr,
            )
            raise
        if not summary:  # another rank than the first of a run under torchrun
            return EXIT_DONE
        from student_trainer.evaluation import print_evaluations, read_evaluations

        evaluations = read_evaluations(recipe.run_dir / "evaluations.jsonl")
        print_evaluations(evaluations[-1][1], before=evaluations[0][1])
        before, after = summary["heldout_accuracy_before"], summary["heldout_accuracy_after"]
        print(
            f"Held-out accuracy {before:.3f} → {after:.3f} "
            f"({summary['heldout_samples']} samples, {summary['method']}, "
            f"{summary['steps']} steps). Results are in {recipe.run_dir}; "
            f"counterhint report {recipe.run_dir} draws them."
        )
        return EXIT_DONE

    def _check(self) -> int:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        from student_trainer.dry_run import dry_run

        checks = dry_run(self.recipe, self.overrides, os.environ)
        if self.json_:
            print(json.dumps(checks.as_json(), indent=2))
        else:
            from rich.console import Console

            Console().print(checks.table())
            print(checks.verdict())
        return EXIT_DONE if checks.passed else EXIT_NEGATIVE


class Eval(Command):
    """Evaluate a model or a checkpoint by a recipe's evaluation section, without training.

    example: counterhint eval recipes/tiny.yaml student.model=runs/models/student
             counterhint eval runs/tiny/recipe.yaml --checkpoint runs/tiny/checkpoints/step-000080
             counterhint eval runs/tiny/recipe.yaml --against runs/tiny/evaluations.jsonl --json
             torchrun --nproc-per-node 8 --no-python counterhint eval recipes/tiny.yaml

    With the recipe of a run, problems and seed are those of the run's own evaluations.
    """

    model_config = SettingsConfigDict(env_prefix="COUNTERHINT_EVAL_")

    recipe: CliPositionalArg[Path]
    """The recipe, a YAML file."""
    overrides: CliPositionalArg[list[str]] = Field([])
    """key=value: values that replace those of the recipe, as for `counterhint train`."""
    checkpoint: Path | None = None
    """Folder of a checkpoint, or of another model; without it the recipe's student.model."""
    against: Path | None = None
    """An earlier evaluation to compare with, problem by problem: a file of --out, or a run's
    evaluations.jsonl, of which the first is taken."""
    out: Path | None = None
    """File to write the outcome to, with the counts of every problem."""
    json_: bool = Field(False, alias="json")
    """Print JSON instead of a table."""

    def run(self) -> int:
        """Evaluates, and prints the outcome."""
        logging.basicConfig(format="%(message)s", level=logging.WARNING)
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        from student_trainer.evaluation import read_evaluations
        from student_trainer.recipe import load_recipe

        recipe = load_recipe(self.recipe, self.overrides, os.environ)
        before = None if self.against is None else read_evaluations(self.against)[0][1]
        if self.out is not None and not self.out.parent.is_dir():
            raise InputError(f"--out {self.out}: there is no folder {self.out.parent}")
        from student_trainer.evaluation.standalone import evaluate_and_show

        evaluate_and_show(recipe, self.checkpoint, before=before, out=self.out, as_json=self.json_)
        return EXIT_DONE


class Score(Command):
    """Score the rollouts of a JSON Lines file, without training, and write their signals.

    A line is an object with `problem` and `response` (or `token_ids`), perhaps also `student` (its
    own log probs), `advantage`, `problem_id`. Its hints are `correct_hint` and `wrong_hints`, texts
    or {"hint": …, "answer": …}; or, as in training, its siblings: then every line has `correct` and
    `response_answer`. A run's rollouts.jsonl is such a file. The output is Parquet.

    Stopped, it goes on where it was when the same command is given again.

    example:
      counterhint score rollouts.jsonl --tokenizer models/student --out scores.parquet
      counterhint score runs/demo/rollouts.jsonl --tokenizer runs/demo/models/student \\
        --address 127.0.0.1:50050 --out demo.parquet
    """

    model_config = SettingsConfigDict(env_prefix="COUNTERHINT_SCORE_")

    rollouts: CliPositionalArg[Path]
    """The file."""
    tokenizer: Path
    """Folder of the student's tokenizer with its chat template."""
    out: Path
    """Parquet file to write."""
    address: str = "127.0.0.1:50050"
    """host:port or unix:///path of a teacher or of an intake. Token and certificates come from
    COUNTERHINT_TOKEN_FILE, COUNTERHINT_TLS_CA and others, as for training."""
    teacher_tokenizer: Path | None = None
    """Folder of the teacher's tokenizer, where it is not the student's."""
    run_id: str = "score"
    """The name under which queue and accounts know the jobs."""
    template: str = "neutral"
    """Name of a built-in hint template, or a file."""
    answer_format: str = ""
    """The line behind each problem that says how to give the final answer."""
    thinking: bool | None = None
    """`enable_thinking` of the chat template; left to the template when not given."""
    max_wrong: int = Field(4, ge=1)
    """Most wrong hints, where siblings are hints."""
    too_long: Literal["shorten", "drop", "error"] = "shorten"
    """What happens to hints that the teacher's context cannot hold."""
    seed: int = 0
    """Decides which siblings are hints."""
    tau: float = Field(Gate().tau, gt=0)
    """Temperature of the gate's tanh."""
    beta: float = Gate().beta
    """Weight of the contrast."""
    lam: float = Gate().lam
    """Scale of the change of an advantage."""
    delta: float = Field(Gate().delta, ge=0)
    """A token is selected when its change is larger."""
    in_flight: int = Field(16, ge=1)
    """Groups at the teacher at a time."""
    timeout: float = Field(600.0, gt=0)
    """Seconds that a job may take, tries included."""
    json_: bool = Field(False, alias="json")
    """Print one JSON object at the end."""

    def run(self) -> int:
        """Scores, and says where the signals are."""
        logging.basicConfig(format="%(message)s", level=logging.WARNING)
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        from student_trainer.hints import HintConfig
        from student_trainer.prompts import PromptConfig
        from student_trainer.score_file.rows import open_rollouts
        from student_trainer.score_file.scoring import ScoreSettings, score_file
        from student_trainer.scoring import ScoringConfig

        scored = score_file(
            open_rollouts(self.rollouts),
            self.out,
            self.tokenizer,
            ScoringConfig(
                address=self.address,
                timeout=self.timeout,
                teacher_tokenizer=self.teacher_tokenizer,
            ),
            ScoreSettings(
                run_id=self.run_id,
                prompts=PromptConfig(hint_template=self.template, teacher_thinking=self.thinking),
                answer_format=self.answer_format,
                hints=HintConfig(max_wrong=self.max_wrong, too_long=self.too_long),
                gate=Gate(self.tau, self.beta, self.lam, self.delta),
                seed=self.seed,
                in_flight=self.in_flight,
            ),
        )
        if self.json_:
            print(json.dumps({"out": str(self.out), **dataclasses.asdict(scored)}))
            return EXIT_DONE
        without = f", {scored.unscored} without scores (see `reason`)" if scored.unscored else ""
        print(
            f"Wrote {self.out}: {scored.rollouts} rollouts{without}; the teacher computed "
            f"{scored.tokens_computed:,} tokens, {scored.tokens_naive:,} with one pass a pair."
        )
        return EXIT_DONE


class Report(Command):
    """Write the figures and rollouts of runs as one HTML page, which needs no other file.

    Of one run: report.html in its folder, with charts, and tokens coloured by the signal. Several
    runs are drawn over one another: --out FILE.html names the page. With --out FOLDER, finished
    runs are also compared: the folder then holds report.html, and a table and plots of means and
    standard errors over seeds, as comparison.html, .md and .json and SVG files.

    example: counterhint report runs/demo
             counterhint report runs/grpo runs/rlcsd --out both.html
             counterhint report runs/grpo-0 runs/grpo-1 runs/rlcsd-0 runs/rlcsd-1 --out runs/both
    """

    model_config = SettingsConfigDict(env_prefix="COUNTERHINT_REPORT_")

    run_dirs: CliPositionalArg[list[Path]] = Field(min_length=1)
    """Folders of runs. In a comparison, runs that differ in their seed alone count as one."""
    out: Path | None = None
    """A file that ends in .html, or a folder for a comparison."""

    def run(self) -> int:
        """Writes the page and prints where it is."""
        if self.out is not None and self.out.suffix != ".html":
            from student_trainer.comparison import write_comparison

            page = write_comparison(self.run_dirs, self.out)
        else:
            from student_trainer.report import write_report

            page = write_report(self.run_dirs, self.out or self._own_page())
        print(f"Wrote {page}")
        return EXIT_DONE

    def _own_page(self) -> Path:
        if len(self.run_dirs) > 1:
            raise InputError(
                f"{len(self.run_dirs)} runs: say where their page goes with --out FILE.html, or "
                "with --out FOLDER to compare them over seeds as well"
            )
        return self.run_dirs[0] / "report.html"


class MakeModels(Command):
    """Make the models that a recipe starts from, as its `models` section says.

    example: counterhint models make recipes/tiny.yaml --out runs/models
    """

    model_config = SettingsConfigDict(env_prefix="COUNTERHINT_MODELS_")

    recipe: CliPositionalArg[Path]
    """The recipe, a YAML file."""
    out: Path
    """Folder for the models: OUT/student and OUT/teacher."""
    only: Literal["student", "teacher"] | None = None
    """Make one of the two only."""
    retrain: bool = False
    """Train the larger teacher anew, even though one is shipped."""

    def run(self) -> int:
        """Makes the models."""
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        from student_trainer.starting_models import Which, make_models

        which: list[Which] = [self.only] if self.only else ["student", "teacher"]
        make_models(self.recipe, self.out, which, retrain=self.retrain)
        return EXIT_DONE


class ServeSampler(LoggedCommand):
    """Serve a vLLM engine that samples rollouts for a trainer, until SIGTERM or Ctrl-C.

    It needs the model's shape only: trainers push their weights to it. A recipe names it by
    rollouts.sampler.kind=vllm_server, rollouts.sampler.addresses and rollouts.sampler.weights_dir.

    example:
      counterhint sampler serve --model models/student --weights-dir runs/pushed \
        --listen 127.0.0.1:50061 dtype=bfloat16 tensor_parallel_size=2
    """

    model_config = SettingsConfigDict(env_prefix="COUNTERHINT_SAMPLER_")

    engine_args: CliPositionalArg[list[str]] = Field([])
    """name=value: vLLM's engine arguments by their names in Python, values in YAML."""
    model: Path
    """Folder of the student's model in transformers format."""
    weights_dir: Path
    """Folder that pushed weights are read from: the recipe's rollouts.sampler.weights_dir."""
    listen: str = "127.0.0.1:50061"
    """host:port (port 0: any free one) or unix:///path."""
    insecure: bool = False
    """Permit plaintext on an address that is not this machine's loopback."""

    def run(self) -> int:
        """Serves until a signal comes."""
        self.start_logs("sampler")
        bound_heap()
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        from student_trainer.rollouts.sampling_service import SamplingServerOptions, serve
        from student_trainer.rollouts.vllm_requests import parse_engine_arguments

        options = SamplingServerOptions(
            model=self.model,
            listen=self.listen,
            weights_dir=self.weights_dir,
            engine_args=parse_engine_arguments(self.engine_args),
            insecure=self.insecure,
        )
        asyncio.run(serve(options, lambda line: print(line, flush=True)))
        return EXIT_DONE


class VerifyLosses(Command):
    """Compare losses and gradients with numbers that another implementation computed.

    example: counterhint verify-losses tests/vectors/reference_losses.json

    Exit codes: 0 all relative errors are at most 1e-6; 1 one is larger; 2 the file cannot be used.
    """

    model_config = SettingsConfigDict(env_prefix="COUNTERHINT_VERIFY_LOSSES_")

    file: CliPositionalArg[Path]
    """JSON file of reference losses."""
    json_: bool = Field(False, alias="json")
    """Print JSON instead of a line a case."""

    def run(self) -> int:
        """Prints the errors of each case and the largest."""
        from student_trainer.verify_losses import TOLERANCE, summarize, verify_losses

        cases = verify_losses(self.file)
        passed = all(case.passed for case in cases)
        if self.json_:
            print(json.dumps(summarize(cases), indent=2))
            return EXIT_DONE if passed else EXIT_NEGATIVE
        for case in cases:
            print(
                f"{case.case:>4}  {case.method:<9}  loss {case.loss:.1e}  "
                f"gradient {case.gradient:.1e}{'' if case.passed else '  FAILED'}"
                f"{'  ' if case.not_finite else ''}{', '.join(case.not_finite)}"
            )
        loss, gradient = max(case.loss for case in cases), max(case.gradient for case in cases)
        print(
            f"Largest relative error of {len(cases)} cases: loss {loss:.1e}, "
            f"gradient {gradient:.1e}; at most {TOLERANCE:.0e} passes."
        )
        return EXIT_DONE if passed else EXIT_NEGATIVE


class BenchLoss(Command):
    """Measure memory and time of the log probs, forward and backward, against the whole softmax.

    example:
      counterhint bench loss --json
      counterhint bench loss --vocab 32000 --tokens 2048 --support 64 --entropy

    With the defaults the naive way takes about 8 GB.
    """

    model_config = SettingsConfigDict(env_prefix="COUNTERHINT_BENCH_LOSS_")

    vocab: int = Field(151_936, ge=2)
    """Tokens of the vocabulary."""
    tokens: int = Field(4096, ge=1)
    """Response tokens of the micro-batch."""
    hidden: int = Field(512, ge=1)
    """Hidden size of the model."""
    support: int = Field(0, ge=0)
    """Support tokens a position whose log probs the loss uses as well."""
    entropy: bool = False
    """Whether the loss uses the entropy as well."""
    repeats: int = Field(1, ge=1)
    """Rounds after the first one; medians are shown."""
    device: str = "cpu"
    """`cpu` or `cuda`."""
    json_: bool = Field(False, alias="json")
    """Print one JSON object."""

    def run(self) -> int:
        """Measures and prints."""
        from student_trainer.bench_loss import LossSize, bench_loss

        size = LossSize(
            self.vocab, self.tokens, self.hidden, self.support, self.entropy, self.device
        )
        figures = dataclasses.asdict(bench_loss(size, self.repeats))
        if self.json_:
            print(json.dumps(figures))
        else:
            for name, value in figures.items():
                print(f"{name:>16}  {value:{',.4g' if isinstance(value, float) else ','}}")
        return EXIT_DONE
