"""ceeh's training step on request: a real `Trainer.fit` whose loader waits for requests.

Job `update`: the rollouts come from the job, and the clock runs over the training step. Job `step`:
generation, rewards, update and the push of the weights into the engine, the canary included.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from benchmarks.memory import Stopwatch
from benchmarks.worker import Requests
from benchmarks.workload import scored_groups
from ceeh.callbacks.weight_sync import WeightSync
from ceeh.config.hardware import CANARY_TOLERANCE, DTYPE
from ceeh.config.settings import Config, load
from ceeh.data.batch import RolloutBatch, collate
from ceeh.data.datamodule import RolloutDataModule
from ceeh.data.engine.base import Sampling
from ceeh.data.engine.vllm_engine import VLLMEngine
from ceeh.data.engine.vllm_sampling import completion_of
from ceeh.data.loader import RolloutLoader
from ceeh.data.verify.reward_function import RewardFunction
from ceeh.modules.module import CEEHModule
from ceeh.modules.policy import Policy
from ceeh.pretrained.loading import load_tokenizer
from ceeh.runtime.quiet import quieten
from ceeh.runtime.rng import derived_seed
from ceeh.types import Finish, Prompt, RolloutGroup

STEPS = 10_000


def settings(job: dict[str, Any]) -> Config:
    """The same objective and optimizer as the reference: token mean, clip-higher, no KL, AdamW."""
    # No model sampled the rows of an update: their log-probs are those of a uniform distribution.
    given = [] if job["kind"] == "step" else ["rollouts.canary_tolerance=100"]
    return load(
        [],
        [
            *given,
            f"model.path={job['model']}",
            f"model.attention={job['attention']}",
            f"rollouts.steps={STEPS}",
            f"rollouts.prompts_per_step={len(job['prompts'])}",
            f"rollouts.completions_per_prompt={job['group_size']}",
            f"rollouts.max_response_tokens={job['max_response_tokens']}",
            f"rollouts.seeds={job.get('seeds', 'request')}",
            f"prompts.max_prompt_tokens={job['prompt_tokens']}",
            "objective.shaping.class_path=ceeh.modules.shaping.NoShaping",
            "objective.advantage=group_mean",
            "objective.aggregation=token_mean",
            "objective.entropy.method=none",
            "objective.dual_clip=null",
            "objective.kl_coefficient=0",
            f"objective.clip_low={job['clip_low']}",
            f"objective.clip_high={job['clip_high']}",
            f"optimizer.lr={job['lr']}",
            "optimizer.schedule=constant",
            f"optimizer.max_grad_norm={job['max_grad_norm']}",
            f"optimizer.prompts_per_minibatch={len(job['prompts'])}",
            f"optimizer.tokens_per_microbatch={job['tokens_per_microbatch']}",
        ],
    )


class ForcedLengths(VLLMEngine):
    """Samples each row to its entry of `lengths`, in a request of its own: random weights stop anywhere."""

    def __init__(self, lengths: Sequence[int], **given: Any) -> None:
        super().__init__(**given)
        self.lengths = lengths

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[RolloutGroup]:
        size = len(self.lengths) // len(prompts)
        rows = [prompt for prompt in prompts for _ in range(size)]
        params = [
            self._params(
                temperature=sampling.temperature,
                max_tokens=length,
                ignore_eos=True,
                seed=derived_seed(sampling.seed, row) if sampling.seeds == "request" else None,
            )
            for row, length in enumerate(self.lengths)
        ]
        sampled = self._run([prompt.token_ids for prompt in rows], params, sampling.seed)
        finished = [
            replace(completion_of(request.outputs[0], self._tokenizer), finish=Finish.STOP)
            for request in sampled
        ]
        return [
            RolloutGroup(
                prompt=prompt,
                completions=tuple(finished[index * size : (index + 1) * size]),
                policy_version=self.policy_version,
            )
            for index, prompt in enumerate(prompts)
        ]


def sampled_batches(job: dict[str, Any], config: Config, engine: VLLMEngine) -> RolloutLoader:
    """The run's loader: prompts from a stream, generation, rewards, collation."""
    tokenizer = load_tokenizer(job["model"], False)
    prompts = [
        Prompt(uid=str(index), text=text, answer="", token_ids=tuple(tokenizer(text)["input_ids"]))
        for index, text in enumerate(job["prompts"])
    ]
    datamodule = RolloutDataModule(
        config,
        engine=engine,
        verifier=RewardFunction("benchmarks.worker.even_length"),
        train_prompts=prompts,
        held_out_prompts=(),
        pad_token_id=0,
    )
    return datamodule.train_dataloader()


class RequestedLoader:
    """Yields a batch when a step is requested, and not before; the clock of a whole step starts then."""

    def __init__(
        self, batches: Iterable[RolloutBatch], requests: Requests, watch: Stopwatch
    ) -> None:
        self.batches = batches
        self.requests = requests
        self.watch = watch

    def __len__(self) -> int:
        return STEPS

    def __iter__(self) -> Iterator[RolloutBatch]:
        batches = iter(self.batches)
        while True:
            self.requests.wait()
            self.watch.start()
            yield next(batches)


class Answers(Callback):
    """Stops the clock: last of the callbacks, so that a whole step includes the push of the weights."""

    def __init__(self, requests: Requests, watch: Stopwatch, *, update_alone: bool) -> None:
        self.requests = requests
        self.watch = watch
        self.update_alone = update_alone

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.update_alone:
            self.watch.stop()
            self.watch.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        measured = self.watch.stop()
        logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.requests.answer(
            **measured,
            loss=logged["loss/policy"],
            grad_norm=logged["optimizer/grad_norm"],
            padding_fraction=logged["optimizer/padding_fraction"],
            lengths=sorted(batch.lengths.tolist()),
            parts={**batch.timings, "update": logged["time/update"]}
            | ({"push": logged["time/push"]} if "time/push" in logged else {}),
        )


def main() -> None:
    requests, watch = Requests(), Stopwatch()
    job = requests.job
    torch.set_num_threads(job["threads"])
    quieten()
    config = settings(job)
    accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    precision = "bf16-mixed" if accelerator == "cuda" else "32-true"
    policy = Policy(
        config.model, job["model"], temperature=1.0, keep_reference=False, precision=precision
    )
    module = CEEHModule(config, policy)
    whole_step = job["kind"] == "step"
    callbacks: list[Callback] = [Answers(requests, watch, update_alone=not whole_step)]
    if whole_step:
        engine = ForcedLengths(
            job["lengths"],
            model_path=job["model"],
            max_model_len=job["prompt_tokens"] + job["max_response_tokens"],
            accelerator=accelerator,
            dtype=DTYPE[precision],
        )
        batches: Iterable[RolloutBatch] = sampled_batches(job, config, engine)
        tolerance = CANARY_TOLERANCE[precision]
        callbacks.insert(0, WeightSync(engine, tolerance=tolerance))
    else:
        shape = {name: job[name] for name in ("group_size", "prompt_tokens", "vocabulary")}
        batch = collate(scored_groups(job["lengths"], **shape), pad_token_id=0)
        batches = (replace(batch, policy_version=step) for step in range(STEPS))
    trainer = Trainer(
        accelerator=accelerator,
        devices=1,
        precision=precision,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
    )
    trainer.fit(module, RequestedLoader(batches, requests, watch))


if __name__ == "__main__":
    main()
