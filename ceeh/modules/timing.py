"""StepClock: where the time of a rollout step went, its throughput, and on a GPU its use of the device.

A step is: rollouts (`generate`, `score`, `collate`) - callbacks that read - update (`forward`,
`backward`, `optimizer`) - `push` - callbacks that observe, log and save. What none of them took is
`idle`: the trainer's own loop, waiting for other ranks. The batch's way to the device counts among
`callbacks`.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ceeh.data.batch import RolloutBatch
from ceeh.modules.policy import Policy


class Phases:
    """Seconds per phase since the last `take`; phases of one name add up.

    On a GPU a phase is the time between two events of its stream: nothing waits for the device but
    `take`. Phases are named ranges in a profiler's trace.
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        with torch.profiler.record_function(f"ceeh/{name}"):
            if torch.cuda.is_initialized():
                begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                begin.record()
                yield
                end.record()
                self._events.append((name, begin, end))
            else:
                started = time.perf_counter()
                yield
                self.add(name, time.perf_counter() - started)

    def add(self, name: str, seconds: float) -> None:
        """Counts time that was measured elsewhere."""
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def take(self) -> dict[str, float]:
        """Seconds per phase so far, which begin anew."""
        if self._events:
            torch.cuda.synchronize()
        for name, begin, end in self._events:
            self.add(name, begin.elapsed_time(end) / 1000)
        seconds, self._seconds, self._events = self._seconds, {}, []
        return seconds


PEAK_TFLOPS = {
    "B200": 2250,
    "GH200": 989,
    "H200": 989,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "L40": 181,
    "L4": 121,
    "A10G": 70,
    "A10": 125,
    "RTX 4090": 165,
    "RTX 3090": 71,
}
"""Dense bf16 with fp32 accumulation, from the vendor's data sheets; longer names before their parts."""


def peak_flops(device: torch.device) -> float | None:
    """FLOP/s of a known GPU; None for another device."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((1e12 * peak for part, peak in PEAK_TFLOPS.items() if part in name), None)


def update_flops(policy: Policy, totals: Sequence[int], *, reference: bool) -> float:
    """FLOPs that one pass of rows of `totals` tokens needs, recomputation and padding not counted.

        4 N + 2 N_trained  a token, and  3 x 2 layers A l^2  a row of l tokens for causal attention
        (6 N and 4 x with a reference pass)

    N: weights in matrix products, the head among them and the embedding not; N_trained those with a
    gradient of their own (all, or the adapter's); A: width of all heads together.
    PaLM, appendix B, https://arxiv.org/abs/2204.02311, with attention's masked half left out.
    """
    config: Any = policy.causal_lm.config
    embedding: Any = policy.causal_lm.get_input_embeddings()
    head: Any = policy.causal_lm.get_output_embeddings()
    used = sum(p.numel() for p in policy.parameters() if p.dim() == 2)
    trained = sum(p.numel() for p in policy.trainable if p.dim() == 2)
    if head.weight is not embedding.weight:
        used -= embedding.weight.numel()
        trained -= embedding.weight.numel() if embedding.weight.requires_grad else 0
    per_token = (6 if reference else 4) * used + 2 * trained
    head_size = getattr(config, "head_dim", None) or (
        config.hidden_size // config.num_attention_heads
    )
    attention = 2 * config.num_hidden_layers * config.num_attention_heads * head_size
    squares = sum(length**2 for length in totals)
    return per_token * sum(totals) + (4 if reference else 3) * attention * squares


UPDATE = ("forward", "backward", "optimizer")


class StepClock:
    """Told of a step's events as they come; `phases` takes the times of its parts."""

    def __init__(self) -> None:
        self.phases = Phases()
        self.tokens = 0.0
        self.start()

    def start(self) -> None:
        """The next step begins now."""
        self.began = self.update_at = self.updated_at = time.perf_counter()
        self.phases.take()

    def update_begins(self) -> None:
        self.update_at = time.perf_counter()

    def update_ends(self) -> float:
        """Seconds of the update."""
        self.updated_at = time.perf_counter()
        return self.updated_at - self.update_at

    def step_ended(
        self, batch: RolloutBatch, policy: Policy, *, reference: bool
    ) -> dict[str, float]:
        """The step's `time/` figures in seconds, tokens per second, and the MFU where it is known.

        `time/tokens_per_second` are response tokens of all ranks over the whole step;
        `optimizer/tokens_per_second` this rank's prompt and response tokens over its update.
        """
        seconds = self.phases.take()
        now = time.perf_counter()
        step = now - self.began
        push = seconds.get("push", 0.0)
        seconds["callbacks"] = self.update_at - batch.ready_at + now - self.updated_at - push
        rollouts = sum(batch.timings.values())
        seconds["idle"] = max(0.0, step - rollouts - sum(seconds.values()))
        update = sum(seconds.get(name, 0.0) for name in UPDATE)
        totals = batch.totals.tolist()
        figures = {f"time/{name}": value for name, value in seconds.items()} | {
            "time/step": step,
            "time/tokens_per_second": self.tokens / step,
            "optimizer/tokens_per_second": sum(totals) / update,
        }
        if (peak := peak_flops(batch.group.device)) is not None:
            figures["optimizer/mfu"] = update_flops(policy, totals, reference=reference) / (
                update * peak
            )
        self.start()
        return figures
