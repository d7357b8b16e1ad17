"""The held-out samples of a run, `held_out/base.npz` and `tuned.npz`: their files, and as results to compare.

Axes: Q questions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from ceeh.config.settings import Config, load
from ceeh.errors import ConfigError, first_line
from ceeh.evaluation.metrics import hard_below, logged_values
from ceeh.evaluation.responses import read_questions
from ceeh.evaluation.results import Results, build_record
from ceeh.evaluation.samples import COLUMNS, SampleTable
from ceeh.evaluation.store import BenchmarkSamples
from ceeh.run.atomic import atomic_write
from ceeh.run.disk_space import written
from ceeh.run.folder import RunFolder
from ceeh.runtime.paths import expanded
from ceeh.runtime.text import escape

NAME = "held_out"


def write_table(
    file: Path, table: SampleTable, uids: Sequence[str], *, conditions: str, settings: str
) -> None:
    """The samples of the questions `uids` as one .npz. Raises RunError when the disk is full.

    `conditions` is a digest of how they were sampled, `settings` the name of the configuration in the run's
    folder that says so: a resumed run may have another one.
    """
    columns = {column: getattr(table, column).numpy() for column in COLUMNS}
    with written(file):
        file.parent.mkdir(exist_ok=True)
        with atomic_write(file) as target:
            texts = {"uid": uids, "conditions": conditions, "settings": settings}
            np.savez_compressed(target, **{k: np.array(v) for k, v in texts.items()}, **columns)


def read_table(file: Path) -> tuple[tuple[str, ...], SampleTable]:
    """The uids and samples in `file`. Raises ConfigError for a file that a run did not write.

    Nothing in the file is run: arrays of objects, which are pickles, are refused.
    """
    try:
        with file.open("rb") as content, np.load(content, allow_pickle=False) as arrays:
            columns = {name: torch.from_numpy(arrays[name]) for name in COLUMNS}
            return tuple(str(uid) for uid in arrays["uid"].tolist()), SampleTable(**columns)
    except Exception as error:  # others may have written the file: its readers raise anything
        raise ConfigError(
            f"'{file}' cannot be read as samples of a run ({first_line(error)}); nothing in it was run"
        ) from error


def read_text(file: Path, name: str) -> str:
    """`conditions` or `settings` of the samples in `file`, which `read_table` reads; see `write_table`."""
    with file.open("rb") as content, np.load(content, allow_pickle=False) as arrays:
        return str(arrays[name]) if name in arrays else ""


def split_off_hard(base: SampleTable, split_samples: int) -> tuple[SampleTable, Bool[Tensor, " Q"]]:
    """The base's measured samples, and the questions that are hard by its other samples.

    Hard is eq. 16 with the base in place of the history: accuracy 0, or below the mean. The samples that
    select the hard questions are not measured: selected for failures, they would make every later
    policy look better.
    """
    accuracy = base.columns(0, split_samples).correct.float().mean(1)
    return base.columns(split_samples), accuracy < hard_below(float(accuracy.mean()))


def level_metrics(
    table: SampleTable, hard: Bool[Tensor, " Q"], names: Sequence[str]
) -> dict[str, float]:
    """The means of `names` over the easy and the hard questions: `eval/<name>_easy`, `eval/<name>_hard`."""
    found = {}
    for level, chosen in (("easy", ~hard), ("hard", hard)):
        if chosen.any():
            values = logged_values(table.rows(chosen))
            found |= {f"eval/{name}_{level}": float(values[name].mean()) for name in names}
    return found


def held_out_file(place: str) -> Path | None:
    """The samples that `place` names: an .npz file, or the tuned policy's of a run; else None."""
    path = expanded(place)
    if path.suffix == ".npz":
        return path
    return path / NAME / "tuned.npz" if (path / "config.yaml").is_file() else None


def read_held_out(place: str, *, levels: Mapping[str, str], draws: int) -> Results:
    """The held-out samples of a run, or of its base (RUN/held_out/base.npz), as results.

    `levels` says of each uid whether the question is easy or hard. Raises ConfigError where there are none.
    """
    file = held_out_file(place)
    if file is None:
        raise ConfigError(
            f"'{place}' is not a run, and the others have held-out samples alone; evaluate them with "
            "python -m ceeh.evaluate on the same benchmarks"
        )
    if not file.is_file():
        raise ConfigError(
            f"'{place}' has no {file.name}: the run did not get that far; resume it, or compare evaluations "
            "of python -m ceeh.evaluate"
        )
    uids, table = read_table(file)
    config, run = _run_of(file)
    if file.stem == "base":
        table, _ = split_off_hard(table, config.evaluation.split_samples)
    responses = file.with_suffix(".parquet")
    samples = BenchmarkSamples(
        table=table,
        uids=uids,
        levels=tuple(levels[uid] for uid in uids) if set(uids) <= levels.keys() else None,
        outcomes={},
        responses=responses,
        asked=read_questions(responses),
    )
    name = run.name if file.stem == "tuned" else f"{run.name}/{file.stem}"
    record = build_record(
        {NAME: samples},
        {NAME: {"settings": _settings(config), "skipped": {}}},
        name=name,
        model={"path": config.model.path, "run": str(run)},
        protocol={"bootstrap_draws": draws},
    )
    return Results(name=escape(name), folder=run, record=record, benchmarks={NAME: samples})


def easy_and_hard(place: str) -> dict[str, str]:
    """`easy` or `hard` by uid, as the base of the run at `place` found it; empty without its samples."""
    file = held_out_file(place)
    if file is None or not (base := file.with_name("base.npz")).is_file():
        return {}
    config, _ = _run_of(base)
    uids, table = read_table(base)
    _, hard = split_off_hard(table, config.evaluation.split_samples)
    return {uid: "hard" if is_hard else "easy" for uid, is_hard in zip(uids, hard, strict=True)}


def _run_of(file: Path) -> tuple[Config, Path]:
    """The configuration with which `file`, which `read_table` reads, was sampled, and its run."""
    run = RunFolder(file.resolve().parent.parent)
    settings = run.path / Path(read_text(file, "settings") or run.config_file.name).name
    if not settings.is_file():
        raise ConfigError(
            f"'{file}' is not in {NAME}/ of a run: there is no {settings}, which says how it was sampled"
        )
    return load([settings]), run.path


def _settings(config: Config) -> dict[str, Any]:
    """How held-out responses are sampled and graded, under the names of a benchmark's settings."""
    prompts, rollouts = config.prompts, config.rollouts
    return {
        "title": "held-out questions",
        "questions": asdict(prompts.held_out),
        "verifier": asdict(config.verifier),
        "chat_template": prompts.chat_template,
        "system_prompt": prompts.system_prompt,
        "instruction": prompts.instruction,
        "temperature": rollouts.temperature,
        "top_p": 1.0,
        "max_response_tokens": rollouts.max_response_tokens,
        "seed": config.seed,
    }
