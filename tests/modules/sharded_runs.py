"""Runs the cases of tests/modules/test_sharding.py in this process, one of two under torchrun or alone."""

import sys
from pathlib import Path

import pytest

from ceeh.fit import fit
from ceeh.modules.batching import Microbatch
from ceeh.modules.policy_module import PolicyModule
from ceeh.runtime.distributed import rank, world_size
from tests.test_fit import small

FIXED = (
    "engine.class_path=tests.fixed_engine.FixedEngine",
    "rollouts.steps=5",
    "checkpoints.every_n_steps=5",
    "optimizer.lr=0.001",
    # Two to five micro-batches of an update on one rank, seldom as many as on the other.
    "prompts.max_prompt_tokens=24",
    "optimizer.tokens_per_microbatch=32",
)
LORA = ("model.lora.rank=4", "model.lora.alpha=8")
CASES = {
    "full": ("model.gradient_checkpointing=true",),
    "lora": (*LORA, "model.gradient_checkpointing=true"),
    "lora over bf16": (*LORA, "hardware.precision=bf16-mixed"),
    # Forward passes and sums of their own, all collective; the checkpoint gathered on rank 0.
    "collectives": (
        "objective.old_logprobs=trainer",
        "objective.ratio=sequence",
        "objective.aggregation=sequence_mean",
        "objective.advantage=token_whitened",
        "objective.entropy.method=uniform_mean",
        "objective.entropy.top_fraction=0.5",
        "checkpoints.format=full",
    ),
}
"""With a KL term: to a kept copy, and to the model without its adapter."""
STRATEGIES = {1: ("auto",), 2: ("ddp", "fsdp")}


def run_name(case: str, strategy: str) -> str:
    return f"{case.replace(' ', '-')}-{strategy}"


def main(models: dict[str, str], output: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "ceeh.fit.held_out.write_report", lambda folder, *_, **__: folder / "report.html"
        )
        padded_to_equal_count = PolicyModule.padded_to_equal_count

        def noting(module: PolicyModule, micro: list[Microbatch]) -> list[Microbatch]:
            sys.stdout.write(f"microbatches {rank()} {len(micro)}\n")  # in one piece
            sys.stdout.flush()
            return padded_to_equal_count(module, micro)

        patch.setattr(PolicyModule, "padded_to_equal_count", noting)
        for case, given in CASES.items():
            for strategy in STRATEGIES[world_size()]:
                model = models["bf16" if "bf16" in case else "fp32"]
                name = run_name(case, strategy)
                settings = [*FIXED, *given, f"hardware.strategy={strategy}", f"name={name}"]
                fit(small(Path(model), output, *settings))


if __name__ == "__main__":
    main({"fp32": sys.argv[1], "bf16": sys.argv[2]}, Path(sys.argv[3]))
