"""Console: a whole line per step and per tenth of a validation, '-' for what was not logged."""

from ceeh.callbacks.console import Console, step_line

ROWS = [(True, 2), (False, 4)]
VALUES = {
    "rollout/accuracy": 0.625,
    "rollout/tokens_mean": 83.12,
    "loss/entropy_easy": 0.4123,
    "loss/entropy_hard": 0.7,
}


def test_a_step_of_a_long_run_fits_100_columns():
    values = VALUES | {"rollout/tokens_mean": 10382.4}
    line = step_line(998, 1000, values, seconds=431.2, remaining=36059.0)
    assert len(line) <= 100


def test_a_step_is_one_line_with_every_number():
    line = step_line(7, 60, VALUES, seconds=7.64, remaining=3725.0)
    assert line == (
        "step  7/60  accuracy 62.5%  tokens 83.1  entropy easy/hard 0.412/0.700  7.6 s  ETA 1:02:05"
    )


def test_missing_and_nan_metrics_show_as_a_dash():
    line = step_line(1, 9, {"loss/entropy_easy": 0.5, "loss/entropy_hard": float("nan")}, 1.0, 59.6)
    assert line == ("step 1/9  accuracy -  tokens -  entropy easy/hard 0.500/-  1.0 s  ETA 0:01:00")


def test_a_log_gets_a_header_and_a_whole_line_per_step(fit, batch, tiny_module, capsys):
    tiny_module.values = VALUES
    fit([Console(2, "starter | 640 prompts")], [batch(("a", ROWS))] * 2, module=tiny_module)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "starter | 640 prompts | 2 steps | 1 x cpu"
    expected = step_line(1, 2, VALUES, 0.0, 0.0).partition("  0.0 s")[0]
    assert lines[1].startswith(expected)
    assert lines[2].startswith("step 2/2  accuracy 62.5%")
    assert lines[2].endswith("ETA 0:00:00")
    assert len(lines) == 3


def test_validation_is_announced_with_its_result(fit, batch, capsys):
    held_out = [batch(("a", ROWS)) for _ in range(12)]
    fit([Console(1, "starter")], [batch(("a", ROWS))], validate=held_out)
    lines = capsys.readouterr().out.splitlines()
    # 12 batches in at most ten lines: every second one.
    batches = [line for line in lines if line.startswith("held-out batch")]
    assert batches == [f"held-out batch {done}/12" for done in (2, 4, 6, 8, 10, 12)]
    assert lines[-1].startswith("held-out  accuracy 50.0%  tokens -  ")


def test_a_resumed_run_continues_the_step_count(fit, batch, tmp_path, capsys):
    steps = [batch(("a", ROWS)) for _ in range(3)]
    fit([Console(3, "starter")], steps, stop_after=1, checkpoints=tmp_path)
    capsys.readouterr()
    fit([Console(3, "starter")], steps, checkpoints=tmp_path, resume=True)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == ["step 2/3", "step 3/3"]
