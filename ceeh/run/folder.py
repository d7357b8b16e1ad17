"""The run folder: `<output>/<name>/`, a fresh suffix when taken, `<output>/latest` pointing at the newest."""

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ceeh.errors import ConfigError
from ceeh.run.atomic import remove_partial
from ceeh.run.checkpoint import checkpoint_files, fault, newest_checkpoint
from ceeh.runtime.distributed import say


class RunFolder:
    """Where a run keeps all that it writes."""

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

    def newest_checkpoint(self) -> Path | None:
        """See `ceeh.run.checkpoint.newest_checkpoint`."""
        return newest_checkpoint(self.checkpoints)

    def last_rollout_step(self) -> int | None:
        """The last step that the run has measured, None without its metrics.jsonl."""
        file = self.path / "metrics.jsonl"
        for line in reversed(file.read_text().splitlines() if file.is_file() else []):
            with suppress(ValueError):  # a half line that a crash left
                return json.loads(line)["rollout_step"]
        return None

    @classmethod
    def create(cls, output: str, name: str) -> "RunFolder":
        """A new folder `name`, `name-2`, `name-3`, ...; `latest` points at it.

        Raises ConfigError where no folder can be made.
        """
        try:
            parent = parent_folder(output)
            number = 1
            while True:
                path = parent / (name if number == 1 else f"{name}-{number}")
                try:
                    path.mkdir()
                    break
                except FileExistsError:
                    number += 1
            folder = cls(path)
            folder.point_latest()
        except OSError as error:
            raise not_made(output, error) from error
        return folder

    @classmethod
    def resume(cls, output: str, name: str, ckpt_path: str) -> tuple["RunFolder", Path | None]:
        """The folder and checkpoint of `ckpt_path`: a file, or `last` for the newest run called `name`.

        `last` is the newest good checkpoint. A run that was stopped before its first one begins again
        in its folder, and one that never began begins: the checkpoint is None then.
        Raises ConfigError when there is no such file or it is damaged, and for a finished run without
        checkpoints.
        """
        if ckpt_path != "last":
            file = Path(ckpt_path)
            if not file.is_file():
                raise ConfigError(
                    f"ckpt_path: no checkpoint '{ckpt_path}'; give a .ckpt file or 'last'"
                )
            if words := fault(file):
                raise ConfigError(
                    f"ckpt_path: '{ckpt_path}' cannot be taken, {words}; ckpt_path=last takes the newest "
                    "good one of a run"
                )
            folder = cls(file.resolve().parent.parent)
            if not (folder.path / "config.yaml").is_file():
                raise ConfigError(
                    f"ckpt_path: '{ckpt_path}' is outside a run folder, into which the run would go on "
                    f"writing: there is no {folder.path / 'config.yaml'}; put it into checkpoints/ of its run"
                )
            folder.refuse_links()
            return folder, file
        path = run_to_resume(output, name, ckpt_path)
        if path is None:
            say(
                f"ckpt_path=last: there is no run called '{name}' under '{output}' yet; this is its start"
            )
            return cls.create(output, name), None
        folder = cls(path)
        checkpoint = folder.newest_checkpoint()
        if checkpoint is None and folder.model.exists():
            raise ConfigError(
                f"ckpt_path=last: the run '{folder.path}' is finished and has no checkpoint left to go on "
                "from; start another without ckpt_path"
            )
        if checkpoint is None:
            say(f"ckpt_path=last: '{folder.path}' has no checkpoint yet; it begins again at step 1")
        folder.refuse_links()
        folder.point_latest()
        return folder, checkpoint

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Inside, no other process may claim the folder: two runs in it would clear away each other's files.

        The claim ends with its process, however that ends. Where the file system knows no locks there is
        none. Raises ConfigError when another process has the folder.
        """
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise ConfigError(
                f"ckpt_path: the run '{self.path}' is under way in another process, whose files this one "
                "would clear away; wait for its end or stop it, or begin another run without ckpt_path"
            ) from error
        except OSError:
            pass
        try:
            yield
        finally:
            os.close(descriptor)

    def drop_after(self, rollout_step: int) -> None:
        """Clears away what the run wrote after `rollout_step`, from which it goes on, and half files.

        Later checkpoints stay as `*.abandoned` until the run has written one that is newer than its
        start.
        """
        remove_partial(self.path)
        for step, file in checkpoint_files(self.checkpoints).items():
            if step > rollout_step:
                file.rename(file.with_name(f"{file.name}.abandoned"))
        for file in self.rollouts.glob("*-*.parquet"):  # step-000012, skipped-000012
            if int(file.stem.rpartition("-")[2]) > rollout_step:
                file.unlink()

    def refuse_links(self) -> None:
        """Raises ConfigError for a link inside: what is written into the folder would land elsewhere."""
        for path in self.path.rglob("*"):
            if path.is_symlink():
                raise ConfigError(
                    f"ckpt_path: '{path}' in the run folder is a link; a run writes into its own folder "
                    "alone: put what it points at in its place"
                )

    def point_latest(self) -> None:
        """Atomically, so that a reader never finds it missing."""
        link = self.path.parent / "latest"
        temporary = self.path.parent / f".latest-{self.path.name}"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(self.path.name)
        temporary.replace(link)


def run_to_resume(output: str, name: str, ckpt_path: str) -> Path | None:
    """The run folder of `ckpt_path`; for `last` the newest run called `name`, None without one."""
    if ckpt_path != "last":
        return Path(ckpt_path).resolve().parent.parent
    pattern = re.compile(re.escape(name) + r"(-(\d+))?")
    parent = Path(output)
    numbered = [
        (int(match[2] or 1), path)
        for path in (parent.iterdir() if parent.is_dir() else ())
        if not path.is_symlink() and (match := pattern.fullmatch(path.name))
    ]
    return max(numbered)[1] if numbered else None


def parent_folder(output: str) -> Path:
    """The folder of run folders, made where it is missing. Raises ConfigError where it cannot be."""
    parent = Path(output)
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_made(output, error) from error
    return parent


def not_made(output: str, error: OSError) -> ConfigError:
    return ConfigError(
        f"output: no folder can be made in '{output}' ({error.strerror}: {error.filename}); give "
        "one that can be written"
    )
