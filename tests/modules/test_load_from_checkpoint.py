"""Lightning's `load_from_checkpoint` gives the policy that was saved."""

from pathlib import Path

import pytest
import torch

from ceeh.errors import ConfigError
from ceeh.modules.module import CEEHModule
from ceeh.run.folder import RunFolder
from tests.conftest import FinishedRun


@pytest.mark.parametrize("kind", ["full_run", "lora_run"])
def test_a_loaded_module_gives_the_log_probs_of_the_trained_one(
    kind: str, request: pytest.FixtureRequest
) -> None:
    run: FinishedRun = request.getfixturevalue(kind)
    newest = RunFolder(run.path).newest_checkpoint()
    assert newest is not None
    module = CEEHModule.load_from_checkpoint(newest)
    with torch.no_grad():
        logprobs, _ = module.policy(run.token_ids, run.response_mask)
    torch.testing.assert_close(logprobs, run.logprobs)
    assert module.config.rollouts.temperature == 0.7
    assert not module.training


def test_anything_but_a_checkpoint_of_a_run_is_refused(tiny_model_dir: Path) -> None:
    with pytest.raises(ConfigError, match="is not a checkpoint of a run"):
        CEEHModule.load_from_checkpoint(tiny_model_dir)
