"""A RolloutEngine in plain torch, for tests that need the path and not vLLM."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from ceeh.data.engine.base import Sampling
from ceeh.modules.shaping.base import ShapingInputs
from ceeh.runtime import shutdown
from ceeh.runtime.rng import derived_seed
from ceeh.types import Completion, Finish, Prompt, RolloutGroup


class TorchEngine:
    """Samples token by token with its own copy of the weights, and notes what it is asked to do."""

    events: list[str] = []  # noqa: RUF012  # shared on purpose: tests read what the run's engine did

    def __init__(self, model_path: str, max_model_len: int = 64) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(model_path)
        self.policy_version = -1
        self.closed = 0

    @torch.no_grad()
    def _sample(self, prompt: tuple[int, ...], sampling: Sampling, seed: int) -> Completion:
        generator = torch.Generator().manual_seed(seed)
        ids, logprobs = list(prompt), []
        finish = Finish.LENGTH
        for _ in range(sampling.max_tokens):
            logits = self.model(input_ids=torch.tensor([ids])).logits[0, -1] / sampling.temperature
            distribution = logits.log_softmax(-1)
            token = int(torch.multinomial(distribution.exp(), 1, generator=generator))
            ids.append(token)
            logprobs.append(float(distribution[token]))
            if token == self.tokenizer.eos_token_id:
                finish = Finish.STOP
                break
        response = tuple(ids[len(prompt) :])
        text = self.tokenizer.decode(response, skip_special_tokens=True)
        return Completion(text=text, token_ids=response, logprobs=tuple(logprobs), finish=finish)

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[RolloutGroup]:
        TorchEngine.events.append(f"generate {self.policy_version}")
        shutdown.check()
        return [
            RolloutGroup(
                prompt=prompt,
                completions=tuple(
                    self._sample(
                        prompt.token_ids, sampling, derived_seed(sampling.seed, prompt.uid, index)
                    )
                    for index in range(number)
                ),
                policy_version=self.policy_version,
            )
            for prompt, number in zip(prompts, sampling.counts(len(prompts)), strict=True)
        ]

    def load_weights(self, weights: Iterable[tuple[str, Tensor]], *, policy_version: int) -> None:
        own = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, value in weights:
                own.pop(name).copy_(value)
        assert not own, f"not pushed: {list(own)}"
        self.policy_version = policy_version
        TorchEngine.events.append(f"load {policy_version}")

    def canary(self, *, temperature: float) -> tuple[tuple[int, ...], Completion]:
        prompt = (2, 3, 4)
        sampling = Sampling(completions=1, temperature=temperature, max_tokens=8)
        return prompt, self._sample(prompt, sampling, 0)

    def sleep(self) -> None:
        TorchEngine.events.append("sleep")

    def wake(self) -> None:
        pass

    def close(self) -> None:
        self.closed += 1


class EqualRewards:
    """A shaping under which nothing is better than anything else: every reward is 1."""

    reads = ()

    def __call__(self, inputs: ShapingInputs) -> Tensor:
        return torch.ones_like(inputs.scores)
