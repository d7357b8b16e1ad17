"""The datamodule: prompts, verifier and engine behind a training and a held-out loader."""

from collections.abc import Sequence
from dataclasses import replace

from lightning import LightningDataModule

from ceeh.config.settings import Config
from ceeh.data.allocation import Knapsack
from ceeh.data.engine.base import RolloutEngine, Sampling
from ceeh.data.loader import HeldOutLoader, RolloutLoader
from ceeh.data.stream import PromptStream
from ceeh.data.verify.base import Verifier
from ceeh.runtime.distributed import gather_objects, rank, world_size
from ceeh.runtime.rng import derived_seed
from ceeh.types import Prompt


class RolloutDataModule(LightningDataModule):
    """Streams rollouts of `train_prompts` and, for validation, of `held_out_prompts`.

    `probe_prompts` are answered in each step and not trained on.
    """

    def __init__(
        self,
        config: Config,
        *,
        engine: RolloutEngine,
        verifier: Verifier,
        train_prompts: Sequence[Prompt],
        held_out_prompts: Sequence[Prompt],
        pad_token_id: int,
        probe_prompts: Sequence[Prompt] = (),
    ) -> None:
        super().__init__()
        self.config = config
        self.engine = engine
        self.verifier = verifier
        self.train_prompts = train_prompts
        self.held_out_prompts = held_out_prompts
        self.pad_token_id = pad_token_id
        self.probe_prompts = probe_prompts

    @property
    def sampling(self) -> Sampling:
        rollouts = self.config.rollouts
        return Sampling(
            completions=rollouts.completions_per_prompt,
            temperature=rollouts.temperature,
            top_p=rollouts.top_p,
            max_tokens=rollouts.max_response_tokens,
            seed=self.config.seed,
            seeds="step" if rollouts.seeds == "step" else "request",
        )

    def train_dataloader(self) -> RolloutLoader:
        rollouts, minibatch = self.config.rollouts, self.config.optimizer.prompts_per_minibatch
        stream = PromptStream(
            self.train_prompts,
            seed=self.config.seed,
            prompts_per_step=rollouts.prompts_per_step,
            rank=rank(),
            world_size=world_size(),
            balanced_by=minibatch if rollouts.balance_ranks else None,
            probe=self.probe_prompts,
        )
        return RolloutLoader(
            engine=self.engine,
            verifier=self.verifier,
            stream=stream,
            sampling=self.sampling,
            steps=rollouts.steps,
            pad_token_id=self.pad_token_id,
            dynamic=rollouts.dynamic_sampling,
            gather=gather_objects,
            allocation=Knapsack(rollouts) if rollouts.allocation.method == "knapsack" else None,
            probe=(self.probe_prompts[rank() :: world_size()], rollouts.probe.samples)
            if self.probe_prompts
            else None,
        )

    def val_dataloader(self) -> HeldOutLoader:
        return self.held_out_loader(self.config.evaluation.samples)

    def held_out_loader(self, samples: int) -> HeldOutLoader:
        """This rank's held-out prompts, `samples` completions each."""
        sampling = replace(
            self.sampling,
            completions=samples,
            seed=derived_seed(self.config.seed, "held out"),
        )
        return HeldOutLoader(
            engine=self.engine,
            verifier=self.verifier,
            prompts=self.held_out_prompts,
            sampling=sampling,
            prompts_per_batch=2 * self.config.rollouts.prompts_per_step,
            pad_token_id=self.pad_token_id,
            rank=rank(),
            world_size=world_size(),
        )

    def on_exception(self, exception: BaseException) -> None:
        """Lightning does not call `teardown` after an exception, so the engine is closed here."""
        self.close()

    def close(self) -> None:
        """Closes engine and verifier. May be called twice."""
        self.engine.close()
        self.verifier.close()
