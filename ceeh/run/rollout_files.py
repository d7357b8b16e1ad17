"""The files in rollouts/ of a run: step-000012.parquet and skipped-000012.parquet."""

import re
from pathlib import Path
from typing import Literal


def rollout_files(folder: Path, kind: Literal["step", "skipped"]) -> dict[int, Path]:
    """Rollout step -> file, in the order of the steps. Leaves out what has another name."""
    found = {
        int(match[1]): file
        for file in folder.glob(f"{kind}-*.parquet")
        if (match := re.fullmatch(rf"{kind}-(\d{{6,}})\.parquet", file.name))
    }
    return dict(sorted(found.items()))
