"""The run folder: `<output>/<name>/`, with a number when taken; `<output>/latest` points at the newest."""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from operator import itemgetter
from pathlib import Path

from ceeh.errors import ConfigError
from ceeh.run.atomic import atomic_link, remove_partial
from ceeh.run.checkpoint import checkpoint_files, fault, newest_checkpoint
from ceeh.run.disk_space import written
from ceeh.run.metrics_file import read_rows
from ceeh.run.places import claimed
from ceeh.run.record import read_record
from ceeh.run.rollout_files import rollout_files
from ceeh.runtime.distributed import say


class RunFolder:
    """The files of a run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def rollouts(self) -> Path:
        return self.path / "rollouts"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def config_file(self) -> Path:
        """See `config_files`; the newest one."""
        return config_files(self.path)[-1]

    def newest_checkpoint(self) -> Path | None:
        """See `ceeh.run.checkpoint.newest_checkpoint`."""
        return newest_checkpoint(self.checkpoints)

    def last_rollout_step(self) -> int | None:
        """The last measured step, None without one in metrics.jsonl."""
        rows = read_rows(self.path)
        return rows[-1]["rollout_step"] if rows else None

    def final_step(self, steps: int) -> int:
        """The rollout step after which a finished run ended; `steps`, unless it ended early.

        `trainer.max_time` and callbacks that set `should_stop` end a run early.
        """
        summary = read_record(
            self.path / "summary.json",
            itemgetter("rollout_step"),
            of="python -m ceeh.fit",
            cure="resume the run with ckpt_path=last, which writes it again, or remove it",
        )
        return summary["rollout_step"] if summary else steps

    @classmethod
    def create(cls, output: str, name: str) -> "RunFolder":
        """A new folder `name`, `name-2`, `name-3`, ...; `latest` points at it.

        Raises ConfigError where no folder can be made.
        """
        parent = parent_folder(output)
        with writing(output):
            number = 1
            while True:
                path = parent / (name if number == 1 else f"{name}-{number}")
                with suppress(FileExistsError):
                    path.mkdir()
                    break
                number += 1
            atomic_link(parent / "latest", path.name)
        return cls(path)

    @classmethod
    def resume(cls, output: str, name: str, ckpt_path: str) -> tuple["RunFolder", Path | None]:
        """The folder and checkpoint of `ckpt_path`: a file, or `last` for the newest run called `name`.

        `last` is the newest good checkpoint; it is None, and the run starts at step 1, if there is no such
        run or it was stopped before its first checkpoint.
        Raises ConfigError when there is no such file or it is damaged, and for a finished run without
        checkpoints.
        """
        if ckpt_path != "last":
            return cls._of_file(Path(ckpt_path))
        path = run_to_resume(output, name, ckpt_path)
        if path is None:
            say(f"ckpt_path=last: no run called '{name}' under '{output}'; starting a new run")
            return cls.create(output, name), None
        folder = cls(path)
        checkpoint = folder.newest_checkpoint()
        if checkpoint is None and folder.model.exists():
            raise ConfigError(
                f"ckpt_path=last: the run '{folder.path}' is finished and has no checkpoint left; start a "
                "new run without ckpt_path"
            )
        if checkpoint is None:
            say(f"ckpt_path=last: '{folder.path}' has no checkpoint yet; restarting from step 1")
        folder.refuse_links()
        return folder, checkpoint

    @classmethod
    def _of_file(cls, file: Path) -> tuple["RunFolder", Path]:
        if not file.exists():
            raise ConfigError(f"ckpt_path: no checkpoint '{file}'; give a .ckpt file or 'last'")
        if words := fault(file):
            raise ConfigError(
                f"ckpt_path: a run cannot resume from '{file}': {words}; ckpt_path=last takes the newest "
                "good checkpoint of a run"
            )
        folder = cls(file.resolve().parent.parent)
        if not (folder.path / "config.yaml").is_file():
            raise ConfigError(
                f"ckpt_path: '{file}' is not in a run folder: there is no {folder.path / 'config.yaml'}; put "
                "it into checkpoints/ of its run, to whose folder the resumed run writes"
            )
        folder.refuse_links()
        return folder, file

    def claimed(self) -> AbstractContextManager[None]:
        """See `ceeh.run.places.claimed`."""
        return claimed(
            self.path,
            f"ckpt_path: the run '{self.path}' is in use by another process; wait for its end, stop it, or "
            "start a new run without ckpt_path",
        )

    def point_latest(self) -> None:
        """`latest`, beside the folder, points at it. Raises ConfigError where this user may not write."""
        latest = self.path.parent / "latest"
        with written(latest):
            atomic_link(latest, self.path.name)

    def drop_after(self, rollout_step: int) -> None:
        """Removes what the run wrote after `rollout_step`, the step to resume from, and half-written files.

        Later checkpoints stay as `*.abandoned` until the run has saved a new one.
        """
        remove_partial(self.path)
        for step, file in checkpoint_files(self.checkpoints).items():
            if step > rollout_step:
                file.rename(file.with_name(f"{file.name}.abandoned"))
        for kind in ("step", "skipped"):
            for step, file in rollout_files(self.rollouts, kind).items():
                if step > rollout_step:
                    file.unlink()

    def refuse_links(self) -> None:
        """Raises ConfigError for a link inside: writing to it would change a file elsewhere."""
        for path in self.path.rglob("*"):
            if path.is_symlink():
                raise ConfigError(
                    f"ckpt_path: '{path}' in the run folder is a link, and a run writes to its own folder "
                    "only: replace it by the file or folder that it points to"
                )


def config_files(run: Path) -> list[Path]:
    """config.yaml of the run's start, then config.resumed-1.yaml, ... of resumes that changed settings."""
    files = [run / "config.yaml"]
    while (file := run / f"config.resumed-{len(files)}.yaml").is_file():
        files.append(file)
    return files


def run_to_resume(output: str, name: str, ckpt_path: str) -> Path | None:
    """The run folder of `ckpt_path`; for `last` the newest run called `name`, None without one."""
    if ckpt_path != "last":
        return Path(ckpt_path).resolve().parent.parent
    pattern = re.compile(re.escape(name) + r"(-(\d+))?")
    parent = Path(output)
    numbered = [
        (int(match[2] or 1), path)
        for path in (parent.iterdir() if parent.is_dir() else ())
        if path.is_dir() and not path.is_symlink() and (match := pattern.fullmatch(path.name))
    ]
    # NAME-2 may be a run of its own that was given this name.
    own = [
        (number, path) for number, path in numbered if path.name == name or is_called(path, name)
    ]
    return max(own)[1] if own else None


def is_called(run: Path, name: str) -> bool:
    """Whether `run` was started with `name`, or has no readable configuration yet."""
    try:
        lines = (run / "config.yaml").read_text(errors="replace").splitlines()
    except OSError:
        return True
    own = {f"name: {name}", f"name: '{name}'"}
    return not own.isdisjoint(lines) or not any(line.startswith("name: ") for line in lines)


def parent_folder(output: str) -> Path:
    """The folder of run folders, made if missing. Raises ConfigError where it cannot be made."""
    parent = Path(output)
    with writing(output):
        parent.mkdir(parents=True, exist_ok=True)
    return parent


@contextmanager
def writing(output: str) -> Iterator[None]:
    """Raises ConfigError where no folder can be made."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"output: cannot create a folder in '{output}' ({error.strerror}: {error.filename}); give a "
            "writable folder"
        ) from error
