"""`benchmarks.growth` takes a rollout step without an engine: its weights and its tables change."""

from pathlib import Path

from benchmarks.growth import Size, Step


def test_a_step_trains_the_weights_and_fills_the_tables(tmp_path: Path) -> None:
    step = Step(tmp_path, Size(prompts=2, group=3, median_tokens=6, vocabulary=64, questions=4))
    before = [weight.detach().clone() for weight in step.policy.trainable]
    step()
    assert any((old != new).any() for old, new in zip(before, step.policy.trainable, strict=True))
    histories = {
        step.signals[0].read(f"question-{number}")["accuracy_history"] for number in (0, 1)
    }
    assert histories != {0.5}
