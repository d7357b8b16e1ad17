"""The real engine opens an export as it opens any model, and samples what the trainer would."""

from pathlib import Path

import pytest
import torch

from ceeh.data.engine.base import Sampling
from ceeh.data.engine.vllm_engine import VLLMEngine
from ceeh.export import main
from ceeh.modules.restore import load_policy
from ceeh.pretrained.locate import open_trained
from tests.conftest import FinishedRun
from tests.data.engine.test_vllm_engine import TOLERANCE, prompts_of

pytestmark = pytest.mark.engine


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_the_engine_on_an_export_agrees_with_the_trainer(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    run: FinishedRun = request.getfixturevalue(f"{kind}_run")
    assert main([str(run.path), str(tmp_path / "out"), "--dtype", "float32"]) == 0
    checkpoint = run.path / "checkpoints" / "step-000002.ckpt"
    policy = load_policy(open_trained(str(checkpoint)), temperature=0.7)
    sampling = Sampling(completions=4, temperature=0.7, max_tokens=24, seed=3)
    with VLLMEngine(str(tmp_path / "out"), max_model_len=128, kv_cache_gib=0.25) as engine:
        groups = engine.generate(prompts_of([1, 5, 40]), sampling)
    largest = 0.0
    for group in groups:
        prompt = group.prompt.token_ids
        for completion in group.completions:
            ids = torch.tensor([[*prompt, *completion.token_ids]])
            mask = torch.arange(ids.shape[1])[None] >= len(prompt)
            expected = policy(ids, mask)[0].detach()[mask]
            difference = (torch.tensor(completion.logprobs) - expected).abs().max()
            largest = max(largest, float(difference))
    print(f"{kind}: largest difference between engine and trainer: {largest:.1e} nats")
    assert largest < TOLERANCE
