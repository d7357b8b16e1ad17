"""`mlflow.json`: what a folder knows of its MLflow run. It is read without MLflow and Lightning."""

import json
from pathlib import Path
from typing import Any

STATE = "mlflow.json"
START: dict[str, Any] = {"delivered": 0, "offset": 0, "row": {}}
"""Nothing is delivered."""


def read_state(folder: Path) -> dict[str, Any]:
    """What `folder` knows of its MLflow run; empty if it was never tracked."""
    file = folder / STATE
    return json.loads(file.read_text()) if file.is_file() else {}
