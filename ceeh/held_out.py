"""Before and after: the policy measured on held-out questions, and what a run leaves behind."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Trainer

from ceeh.config.settings import Config
from ceeh.data.datamodule import RolloutDataModule
from ceeh.errors import ConfigError, first_line
from ceeh.evaluation.samples import COLUMNS, SampleTable
from ceeh.evaluation.summary import summarize
from ceeh.modules.module import CEEHModule
from ceeh.reporting.run_page import summary_grid, write_report
from ceeh.run.atomic import atomic_write, atomic_write_text
from ceeh.run.folder import RunFolder
from ceeh.runtime.distributed import from_rank_zero, is_rank_zero, say
from ceeh.tracking.logger import GuardedMLFlowLogger
from ceeh.types import Prompt


def measure_base(
    trainer: Trainer, module: CEEHModule, datamodule: RolloutDataModule, folder: RunFolder
) -> SampleTable:
    """The starting policy: `samples` + `split_samples` completions a question; read back on a resume."""
    evaluation = datamodule.config.evaluation
    file = folder.path / "held_out" / "base.npz"
    samples = evaluation.samples + evaluation.split_samples
    table = from_rank_zero(lambda: kept_table(file, datamodule.held_out_prompts, samples))
    return table or _measure(trainer, module, datamodule, file, samples, "base")


def measure_tuned(
    trainer: Trainer, module: CEEHModule, datamodule: RolloutDataModule, folder: RunFolder
) -> SampleTable:
    """The trained policy on the same questions."""
    file = folder.path / "held_out" / "tuned.npz"
    return _measure(
        trainer, module, datamodule, file, datamodule.config.evaluation.samples, "tuned"
    )


def write_results(
    config: Config,
    folder: RunFolder,
    base: SampleTable,
    tuned: SampleTable,
    prompts: Sequence[Prompt],
    mlflow: GuardedMLFlowLogger | None,
) -> None:
    """summary.json, report.html, report.png and the console table; all of them to MLflow."""
    evaluation = config.evaluation
    measured, hard = split_off_hard(base, evaluation.split_samples)
    summary = summarize(
        measured,
        tuned,
        hard,
        k=evaluation.samples,
        draws=evaluation.bootstrap_draws,
        seed=config.seed,
    )
    summary["rollout_step"] = config.rollouts.steps
    summary["train_seconds"] = train_seconds(folder)
    atomic_write_text(folder.path / "summary.json", json.dumps(summary, indent=2) + "\n")
    levels: list[Any] = [prompt.metadata.get("level") for prompt in prompts]
    report = write_report(
        folder.path,
        summary,
        title=f"{folder.path.name}: base against tuned",
        tables={"base": measured, "tuned": tuned},
        levels=levels if all(isinstance(level, int) for level in levels) else None,
    )
    say(summary_grid(summary).text())
    say(
        f"\ntraining took {summary['train_seconds']:.0f} s; report: {report}; model: {folder.model}"
    )
    if mlflow is not None:
        mlflow.log_summary(summary)
        for file in (report, report.with_suffix(".png"), folder.path / "metrics.jsonl"):
            mlflow.log_file(file)
        mlflow.log_folder(folder.model, "model")
        if rollouts := sorted(folder.rollouts.glob("step-*.parquet")):
            mlflow.log_file(rollouts[-1], "rollouts")
        mlflow.finish()


def split_off_hard(base: SampleTable, split_samples: int) -> tuple[SampleTable, torch.Tensor]:
    """The base's measured samples, and which questions are hard by its *other* samples.

    Hard is eq. 16 with the base in place of the history: accuracy below the mean. Samples that choose
    the questions are not measured: chosen for their failures they would flatter every later policy.
    """
    accuracy = base.columns(0, split_samples).correct.float().mean(1)
    return base.columns(split_samples), accuracy < accuracy.mean()


def train_seconds(folder: RunFolder) -> float:
    """Seconds of all rollout steps, those before a resume too."""
    lines = (folder.path / "metrics.jsonl").read_text().splitlines()
    return sum(json.loads(line).get("time/step") or 0.0 for line in lines)


def write_table(file: Path, table: SampleTable, prompts: Sequence[Prompt]) -> None:
    """The samples of `prompts`, with their uids, as one .npz."""
    file.parent.mkdir(exist_ok=True)
    columns = {column: getattr(table, column).numpy() for column in ("index", *COLUMNS)}
    with atomic_write(file) as target:
        np.savez_compressed(target, uid=np.array([prompt.uid for prompt in prompts]), **columns)


def read_table(file: Path) -> tuple[SampleTable, list[str]]:
    """The samples and the uids of their questions. Raises ConfigError for what `write_table` did not write.

    Nothing in it is run: arrays of objects, which are pickles, are refused.
    """
    try:
        with file.open("rb") as content, np.load(content, allow_pickle=False) as arrays:
            columns = {name: torch.from_numpy(arrays[name]) for name in ("index", *COLUMNS)}
            uids = [str(uid) for uid in arrays["uid"].tolist()]
        return SampleTable(**columns), uids
    except (
        Exception
    ) as error:  # a file that others may have written: its readers raise whatever comes
        raise ConfigError(
            f"'{file}' cannot be read as samples of a run ({first_line(error)}); nothing in it was run; "
            "what it held must be measured again"
        ) from error


def kept_table(file: Path, prompts: Sequence[Prompt], samples: int) -> SampleTable | None:
    """The table in `file` if it holds `samples` of just these prompts, else None."""
    if not file.is_file():
        return None
    try:
        table, uids = read_table(file)
    except ConfigError as error:
        say(f"{error}; measuring again")
        return None
    if uids == [prompt.uid for prompt in prompts] and table.correct.shape[1] == samples:
        return table
    say(f"{file} was measured on other questions or with other samples; measuring again")
    return None


def _measure(
    trainer: Trainer,
    module: CEEHModule,
    datamodule: RolloutDataModule,
    file: Path,
    samples: int,
    name: str,
) -> SampleTable:
    questions = len(datamodule.held_out_prompts)
    say(f"measuring {name}: {questions} held-out questions x {samples} samples ...")
    datamodule.held_out_samples = samples
    trainer.validate(module, datamodule=datamodule, verbose=False)
    datamodule.held_out_samples = datamodule.config.evaluation.samples
    table = module.held_out_table
    if is_rank_zero():
        write_table(file, table, datamodule.held_out_prompts)
    return table
