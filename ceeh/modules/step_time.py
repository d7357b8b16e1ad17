"""StepClock: where the time of a rollout step went, its throughput, and on a GPU its use of the device.

A step is: rollouts (`generate`, `score`, `collate`) - callbacks that read - update (`forward`,
`backward`, `optimiser`) - `push` - callbacks that observe, log and save. What none of them took is
`idle`: the trainer's own loop, waiting for other ranks. The batch's way to the device counts among
`callbacks`.
"""

import time

from ceeh.modules.flops import peak_flops, update_flops
from ceeh.modules.policy import Policy
from ceeh.phases import Phases
from ceeh.types import RolloutBatch

UPDATE = ("forward", "backward", "optimiser")


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
