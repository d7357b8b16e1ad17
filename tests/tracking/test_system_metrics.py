"""MLflow's switch for system metrics puts them into metrics.jsonl, a value for each step."""

from pathlib import Path

import pytest

from ceeh.fit import fit
from tests.metric_table import differences
from tests.test_fit import rows, small


@pytest.mark.usefixtures("without_figures")
@pytest.mark.parametrize("switch", ["true", "false"])
def test_system_metrics_follow_mlflows_switch(
    switch: str, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", switch)
    config = small(tiny_model_dir, tmp_path, "rollouts.steps=2")
    folder = fit(config)
    found = [row.get("system/system_memory_usage_megabytes", 0.0) > 0 for row in rows(folder)[1:]]
    assert found == [switch == "true"] * 2
    assert differences(folder, "fit", config) == []
