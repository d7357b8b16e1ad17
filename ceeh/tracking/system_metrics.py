"""CPU, memory, disk, network and GPU use as metrics of a run, for MLflow's own switch."""

import threading
from contextlib import suppress
from typing import Any

from lightning import Callback, LightningModule, Trainer
from mlflow.environment_variables import MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL
from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

SECONDS = 10.0
"""Between two samples, as in MLflow."""


class SystemMetrics(Callback):
    """Logs `system/...` after each rollout step: means of the samples since the last one, on rank 0's node.

    MLflow's own thread asks the server at each sample and stops when it does not answer. Here they go the
    way of all metrics, into metrics.jsonl.
    """

    def __init__(self) -> None:
        self.seconds = MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL.get() or SECONDS
        self.monitors: list[BaseMetricsMonitor] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
        with suppress(ImportError, RuntimeError):  # no NVIDIA GPU, or not its library
            self.monitors.append(GPUMonitor())
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            threading.Thread(target=self._follow, name="system metrics", daemon=True).start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not trainer.is_global_zero:
            return
        self._sample()
        with self._lock:
            found = {
                f"system/{name}": float(value)
                for monitor in self.monitors
                for name, value in monitor.aggregate_metrics().items()  # type: ignore[union-attr]  # abstract there
            }
            for monitor in self.monitors:
                monitor.clear_metrics()
        pl_module.log_dict(found, batch_size=1, rank_zero_only=True)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self._ended.set()

    def _sample(self) -> None:
        with self._lock:
            for monitor in self.monitors:
                monitor.collect_metrics()

    def _follow(self) -> None:
        while not self._ended.wait(self.seconds):
            self._sample()
