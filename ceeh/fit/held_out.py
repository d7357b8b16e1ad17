"""Before and after training: the policy measured on held-out questions, and the run's results."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning import Trainer

from ceeh.callbacks.contrast import cure
from ceeh.config.settings import Config
from ceeh.data.datamodule import RolloutDataModule
from ceeh.data.prompts import digests
from ceeh.errors import ConfigError
from ceeh.evaluation.held_out import (
    level_metrics,
    read_table,
    read_text,
    split_off_hard,
    write_table,
)
from ceeh.evaluation.samples import SampleTable
from ceeh.evaluation.summary import summarize
from ceeh.modules.module import CEEHModule
from ceeh.reporting.run_page import summary_grid, write_report
from ceeh.run.atomic import atomic_write_text
from ceeh.run.checkpoint import checkpoint_files
from ceeh.run.disk_space import written
from ceeh.run.folder import RunFolder, config_files
from ceeh.run.metrics_file import JSONLLogger, read_rows
from ceeh.run.rollout_files import rollout_files
from ceeh.runtime.distributed import from_rank_zero, say
from ceeh.runtime.rng import stable_hash
from ceeh.tracking.logger import GuardedMLFlowLogger
from ceeh.types import Prompt

NEARLY_NONE = 0.02
"""Share of solved, or unsolved, responses below which the base is said to have little to learn from."""


def measure_base(
    trainer: Trainer, module: CEEHModule, datamodule: RolloutDataModule, folder: RunFolder
) -> SampleTable:
    """The starting policy: `samples` + `split_samples` completions per question; a resumed run reads them.

    It measures again where they are of other questions or samples, or sampled under other `conditions`, and
    its figures replace those of step 0.

    From here on the module logs easy and hard questions apart, by the base's `split_samples`.
    """
    evaluation, prompts = datamodule.config.evaluation, datamodule.held_out_prompts
    file = folder.path / "held_out" / "base.npz"
    samples = evaluation.samples + evaluation.split_samples
    how = conditions(datamodule, module)
    table = from_rank_zero(lambda: kept_table(file, prompts, samples, how))
    if table is None:
        jsonl = trainer.loggers[0]
        assert isinstance(jsonl, JSONLLogger)

        def tell(line: Mapping[str, Any]) -> None:
            say(
                "metrics.jsonl: step 0 is the base as measured now; held-out metrics of the steps until this "
                "resume are of the questions and samples before"
            )
            for logger in trainer.loggers:
                if isinstance(logger, GuardedMLFlowLogger):
                    logger.log_base(line)

        with jsonl.of_base(tell):
            table = sample(trainer, module, datamodule, samples=samples, name=file.stem)
            measured, hard = split_off_hard(table, evaluation.split_samples)
            for logger in trainer.loggers:
                logger.log_metrics(level_metrics(measured, hard, module.eval_metrics), step=0)
        # Last: a run that is killed before has no base and measures it again.
        keep(file, table, prompts, how)
    _, module.hard_questions = split_off_hard(table, evaluation.split_samples)
    accuracy = float(table.correct.float().mean())
    if not NEARLY_NONE <= accuracy <= 1 - NEARLY_NONE:
        say(
            f"warning: the base solves {accuracy:.1%} of the held-out questions, and groups with one reward "
            f"teach nothing. {cure(accuracy)}"
        )
    return table


def measure_tuned(
    trainer: Trainer, module: CEEHModule, datamodule: RolloutDataModule, folder: RunFolder
) -> SampleTable:
    """The trained policy on the same questions."""
    file = folder.path / "held_out" / "tuned.npz"
    samples = datamodule.config.evaluation.samples
    table = sample(trainer, module, datamodule, samples=samples, name=file.stem)
    keep(file, table, datamodule.held_out_prompts, conditions(datamodule, module))
    return table


def sample(
    trainer: Trainer,
    module: CEEHModule,
    datamodule: RolloutDataModule,
    *,
    samples: int,
    name: str,
) -> SampleTable:
    """`samples` completions of every held-out question by the current policy."""
    say(
        f"measuring {name}: {len(datamodule.held_out_prompts)} held-out questions x {samples} samples ..."
    )
    loader = datamodule.held_out_loader(samples)
    trainer.validate(module, dataloaders=loader, verbose=False)
    return module.held_out_table()


def conditions(datamodule: RolloutDataModule, module: CEEHModule) -> str:
    """A digest of what held-out samples of one policy depend on; grading is the same in all of a run.

    Prompts as rendered, answers, the sampling, and the weights that the run began with.
    """
    rollouts = datamodule.config.rollouts
    of_prompts = digests(datamodule.held_out_prompts)["rendered"]
    sampling = (rollouts.temperature, rollouts.max_response_tokens)
    return stable_hash(f"{of_prompts}/{sampling}/{module.policy.base_digest}").hex()


def keep(file: Path, table: SampleTable, prompts: Sequence[Prompt], how: str) -> None:
    """Rank 0 writes the samples. Collective: its errors are those of all ranks."""
    uids = [prompt.uid for prompt in prompts]
    settings = config_files(file.parents[1])[-1].name
    from_rank_zero(lambda: write_table(file, table, uids, conditions=how, settings=settings))


def write_results(
    config: Config,
    folder: RunFolder,
    base: SampleTable,
    tuned: SampleTable,
    prompts: Sequence[Prompt],
    mlflow: GuardedMLFlowLogger | None,
    *,
    rollout_step: int,
) -> None:
    """Writes summary.json, report.html and report.png, prints the table, sends all of them to MLflow.

    `rollout_step` is the last one that `tuned` was trained on.
    """
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
    summary["rollout_step"] = rollout_step
    rows = read_rows(folder.path)
    # Of all steps, those before a resume included.
    summary["train_seconds"] = sum(row.get("time/step") or 0.0 for row in rows)
    with written(folder.path / "summary.json"):
        atomic_write_text(folder.path / "summary.json", json.dumps(summary, indent=2) + "\n")
    levels: list[Any] = [prompt.metadata.get("level") for prompt in prompts]
    with written(folder.path / "report.html"):
        report = write_report(
            folder.path,
            summary,
            title=f"{folder.path.name}: base against tuned",
            rows=rows,
            tables={"base": measured, "tuned": tuned},
            levels=levels if all(isinstance(level, int) for level in levels) else None,
            uids=[prompt.uid for prompt in prompts],
            hard=hard,
        )
    say(summary_grid(summary).text())
    say(
        f"\ntraining took {summary['train_seconds']:.0f} s; report: {report}; model: {folder.model}"
    )
    if mlflow is not None:
        weights = checkpoint_files(folder.checkpoints) | {rollout_step: folder.model}
        mlflow.log_weights(weights)
        own = [folder.path / name for name in ("summary.json", "metrics.jsonl")]
        for file in (*own, report, report.with_suffix(".png")):
            mlflow.log_file(file)
        mlflow.log_folder(folder.model, "model")
        if rollouts := [*rollout_files(folder.rollouts, "step").values()]:
            mlflow.log_file(rollouts[-1], "rollouts")
        mlflow.finish()


def kept_table(file: Path, prompts: Sequence[Prompt], samples: int, how: str) -> SampleTable | None:
    """The table in `file` if it holds `samples` of these prompts under the conditions `how`, else None."""
    if not file.is_file():
        return None
    try:
        uids, table = read_table(file)
    except ConfigError as error:
        say(f"{error}; measuring again")
        return None
    if uids != tuple(prompt.uid for prompt in prompts) or table.correct.shape[1] != samples:
        say(f"{file} was measured on other questions or with other samples; measuring again")
    elif read_text(file, "conditions") != how:
        say(
            f"{file} was measured with other prompts or answers, another temperature, response limit or base "
            "model; measuring again"
        )
    else:
        return table
    return None
