"""`mlflow.json`: what a folder knows of its MLflow run. It is read without MLflow and Lightning."""

from pathlib import Path
from typing import Any

from ceeh.run.record import read_record
from ceeh.runtime.text import show

STATE = "mlflow.json"
START: dict[str, Any] = {"delivered": 0, "offset": 0, "row": {}}
"""Nothing is delivered."""
KINDS = {
    **dict.fromkeys(("key", "uri", "experiment", "run_name"), str),
    **{"entries": list, "delivered": int, "offset": int, "row": dict},
}


def read_state(folder: Path) -> dict[str, Any]:
    """What `folder` knows of its MLflow run; empty if it was never tracked.

    Raises ConfigError for a file that GuardedMLFlowLogger did not write.
    """
    cure = "restore a copy, or remove it: what is tracked from then on goes to a new MLflow run"
    state = read_record(folder / STATE, _check, of="ceeh's tracking", cure=cure)
    return {} if state is None else state


def _check(state: dict[str, Any]) -> None:
    values = [(state[name], kind) for name, kind in KINDS.items()]
    values += [(state["row"].get("rollout_step", 0), int)]
    values += [(entry, dict) for entry in state["entries"]]
    for value, kind in values:
        if not isinstance(value, kind):
            raise TypeError(f"{show(value)} where {kind.__name__} is expected")
