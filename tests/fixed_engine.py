"""A RolloutEngine whose tokens do not depend on its weights, for runs that must have the same rollouts."""

import time
from collections.abc import Sequence

import torch

from ceeh.data.engine.base import Sampling
from ceeh.runtime import shutdown
from ceeh.runtime.distributed import rank
from ceeh.types import Completion, Finish, Prompt, RolloutGroup
from tests.torch_engine import TorchEngine


class FixedEngine(TorchEngine):
    """Tokens are drawn uniformly from the request's seed; their log-probs are those of the weights."""

    @torch.no_grad()
    def _sample(self, prompt: tuple[int, ...], sampling: Sampling, seed: int) -> Completion:
        generator = torch.Generator().manual_seed(seed)
        length = int(torch.randint(1, sampling.max_tokens + 1, (), generator=generator))
        vocabulary = self.model.config.vocab_size
        response = torch.randint(3, vocabulary, (length,), generator=generator).tolist()
        ids = torch.tensor([[*prompt, *response]])
        logits = self.model(input_ids=ids).logits[0, len(prompt) - 1 : -1] / sampling.temperature
        logprobs = logits.log_softmax(-1).gather(1, torch.tensor(response)[:, None])[:, 0]
        return Completion(
            text=self.tokenizer.decode(response, skip_special_tokens=True),
            token_ids=tuple(response),
            logprobs=tuple(logprobs.tolist()),
            finish=Finish.STOP,
        )


class WaitingOnRankOne(FixedEngine):
    """The second process waits, in the third step of two updates each, for a termination signal."""

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[RolloutGroup]:
        if self.policy_version == 4 and rank() == 1:
            for _ in range(3000):
                shutdown.check()
                time.sleep(0.1)
        return super().generate(prompts, sampling)
