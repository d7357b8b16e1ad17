"""MLflow: delivery of a run's metrics and artifacts. Its settings, which it reads when it is imported."""

import os
from typing import Any

os.environ |= {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # By default a call to a dead server blocks for about four minutes.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
} | os.environ


def system_callbacks() -> list[Any]:
    """The callback that logs them, where MLflow's own switch is on; MLflow is not imported without it."""
    if os.environ.get("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "").lower() not in ("true", "1"):
        return []
    from ceeh.tracking.system_metrics import SystemMetrics

    return [SystemMetrics()]
