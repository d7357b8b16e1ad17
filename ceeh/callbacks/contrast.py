"""ContrastGuard: stops a run whose rewards teach nothing."""

from typing import Any

from lightning import Callback, LightningModule, Trainer

from ceeh.data.batch import RolloutBatch
from ceeh.errors import RunError
from ceeh.modules.advantages import group_std
from ceeh.runtime.distributed import gather_objects


class ContrastGuard(Callback):
    """Raises RunError after `max_steps` rollout steps in a row in which no group has two different rewards.

    Then advantages are 0, or `objective.advantage_boost` where correct: no response is preferred to another,
    and the entropy bonus, the KL and the boost let the policy drift without a word.
    """

    def __init__(self, max_steps: int) -> None:
        self.max_steps = max_steps
        self.flat_steps = 0

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: RolloutBatch,
        batch_idx: int,
    ) -> None:
        std = group_std(outputs["rewards"], batch.group, batch.num_prompts)
        here = bool((std > 0).any()), float(batch.correct.float().mean())
        ranks = gather_objects(here)
        self.flat_steps = 0 if any(contrast for contrast, _ in ranks) else self.flat_steps + 1
        if self.flat_steps < self.max_steps:
            return
        accuracy = sum(accuracy for _, accuracy in ranks) / len(ranks)
        raise RunError(
            f"no group had two different rewards in {self.flat_steps} rollout steps in a row "
            "(rollouts.max_flat_steps), so no response was preferred to another; "
            f"the accuracy is {accuracy:.0%}. " + cure(accuracy)
        )

    def state_dict(self) -> dict[str, Any]:
        return {"flat_steps": self.flat_steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.flat_steps = state_dict["flat_steps"]


def cure(accuracy: float) -> str:
    """What to change where the policy solves almost nothing, or almost everything."""
    if accuracy < 0.5:
        return (
            "Train the format first with python -m ceeh.sft, take easier questions, raise "
            "rollouts.max_response_tokens if responses are truncated, or check that the verifier accepts a "
            "correct response"
        )
    return (
        "Take harder questions, raise rollouts.temperature, or reward length on solved questions "
        "(objective.shaping)"
    )
