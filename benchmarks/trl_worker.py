"""TRL's GRPOTrainer as its users run it, one optimizer step per request. Runs in `.venv-trl`.

Everything measured is TRL's own code: the trainer's `train()` with its optimizer, scheduler and
metrics. Job `update`: the rollouts come from the job, and the clock runs from the moment they are
prepared to the end of the optimizer step. Job `step`: generation, rewards and update.
"""

import time
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, LogitsProcessor, TrainerCallback
from trl import GRPOConfig, GRPOTrainer  # type: ignore[import-not-found]  # in .venv-trl

from benchmarks.memory import Stopwatch
from benchmarks.worker import Requests, even_length

PACKAGES = ("trl", "transformers", "torch", "accelerate", "datasets")


class ForcedLengths(LogitsProcessor):
    """The end token at each row's length and not before; random weights would end anywhere."""

    def __init__(self, lengths: list[int], end: int, prompt_tokens: int) -> None:
        self.lengths = torch.tensor(lengths)
        self.end = end
        self.prompt_tokens = prompt_tokens

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        position = input_ids.shape[1] - self.prompt_tokens + 1
        scores[:, self.end] = -torch.inf
        ends = torch.nonzero(self.lengths == position).flatten()
        scores[ends] = -torch.inf
        scores[ends, self.end] = 0.0
        return scores


class MeasuredTrainer(GRPOTrainer):
    """Waits for a request before each generation batch; keeps what a step computed."""

    requests: Requests
    watch: Stopwatch

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self.requests.wait()
        self.losses: list[float] = []
        whole_step = self.requests.job["kind"] == "step"
        if whole_step:
            self.watch.start()
        begin = time.perf_counter()
        batch = super()._generate_and_score_completions(inputs)
        self.generate_seconds = time.perf_counter() - begin
        rows, width = batch["completion_ids"].shape
        width += batch["prompt_ids"].shape[1]
        self.used = int(batch["prompt_mask"].sum() + batch["completion_mask"].sum())
        self.paid = rows * width
        if not whole_step:
            batch["old_per_token_logps"] = batch["sampling_per_token_logps"]
            self.watch.start()
        self.lengths = batch["completion_mask"].sum(1).tolist()
        return batch

    def training_step(self, *arguments: Any) -> torch.Tensor:
        loss = super().training_step(*arguments)
        self.losses.append(float(loss))
        return loss

    def _clip_grad_norm(self, model: torch.nn.Module) -> Any:
        norm = super()._clip_grad_norm(model)
        self.grad_norm = float(norm)
        return norm


class Answers(TrainerCallback):
    """Stops the clock after the optimizer's step and its `zero_grad`."""

    trainer: MeasuredTrainer

    def on_step_end(self, *arguments: Any, **given: Any) -> None:
        trainer = self.trainer
        trainer.requests.answer(
            **trainer.watch.stop(),
            generate_seconds=trainer.generate_seconds,
            used_tokens=trainer.used,
            paid_tokens=trainer.paid,
            lengths=sorted(trainer.lengths),
            loss=sum(trainer.losses),
            grad_norm=trainer.grad_norm,
            versions={f"reference {name}": version(name) for name in PACKAGES},
        )


def settings(job: dict[str, Any], rows: int) -> GRPOConfig:
    """The same objective and optimizer as ours: token mean, clip-higher, no KL, AdamW, clipped norm."""
    gpu = torch.cuda.is_available()
    micro = job["rows_per_microbatch"]
    return GRPOConfig(
        output_dir=job["folder"],
        max_steps=10_000,
        num_generations=job["group_size"],
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=rows // micro,
        steps_per_generation=rows // micro,
        max_completion_length=job["max_response_tokens"],
        beta=0.0,
        loss_type="dapo",
        epsilon=job["clip_low"],
        epsilon_high=job["clip_high"],
        scale_rewards="none",
        learning_rate=job["lr"],
        lr_scheduler_type="constant",
        adam_beta1=0.9,
        adam_beta2=0.999,
        weight_decay=0.0,
        max_grad_norm=job["max_grad_norm"],
        gradient_checkpointing=False,
        bf16=gpu,
        use_cpu=not gpu,
        use_vllm=job["generation"] == "vllm",
        vllm_mode="colocate",
        vllm_gpu_memory_utilization=0.12,  # ours is on the same GPU
        # Ours takes the engine's log-probs as they are, too: no second forward pass.
        vllm_importance_sampling_correction=False,
        shuffle_dataset=False,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        seed=0,
    )


def force_lengths(trainer: MeasuredTrainer, job: dict[str, Any]) -> None:
    """Rows end at the job's lengths, in whichever way the trainer generates."""
    lengths = job["lengths"]
    if job["generation"] == "vllm":
        generate = trainer.vllm_generation.llm.generate

        def forced_params(prompts: Any, sampling_params: Any, **given: Any) -> Any:
            params = [sampling_params.clone() for _ in lengths]
            for one, length in zip(params, lengths, strict=True):
                one.max_tokens, one.ignore_eos = length, True
            return generate(prompts, sampling_params=params, **given)

        trainer.vllm_generation.llm.generate = forced_params
    else:
        end = trainer.processing_class.eos_token_id
        processor = ForcedLengths(lengths, end, job["prompt_tokens"])
        trainer.model.generate = partial(trainer.model.generate, logits_processor=[processor])


def rewards(job: dict[str, Any]) -> Any:
    """The job's scores where it has some, else the reward function that ours calls too."""
    if "scores" in job:
        return lambda completions, **given: job["scores"]
    return lambda completions, **given: [even_length(None, text) for text in completions]


def main() -> None:
    requests = Requests()
    job = requests.job
    torch.set_num_threads(job["threads"])
    rollouts = {name: job.get(name) for name in ("prompt_ids", "completion_ids", "logprobs")}
    tokenizer = AutoTokenizer.from_pretrained(job["model"], padding_side="left")
    trainer = MeasuredTrainer(
        model=AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32),
        reward_funcs=rewards(job),
        args=settings(job, len(job["prompts"]) * job["group_size"]),
        train_dataset=Dataset.from_dict({"prompt": job["prompts"]}),
        processing_class=tokenizer,
        # Returns the job's rows instead of sampling.
        rollout_func=(lambda prompts, trainer: rollouts) if job["kind"] == "update" else None,
    )
    trainer.requests, trainer.watch = requests, Stopwatch()
    if job["kind"] == "step":
        force_lengths(trainer, job)
    answers = Answers()
    answers.trainer = trainer
    trainer.add_callback(answers)
    trainer.train()


if __name__ == "__main__":
    main()
