"""Every metric that a run can log, described once. docs/metrics.md is made from this file.

Here, because modules, callbacks and tracking all log, and a metric names the settings that it depends on.
"""

from typing import NamedTuple

BOTH = ("fit", "sft")
SFT = ("sft",)


class Metric(NamedTuple):
    """A metric in words. In `name`, K, LOW and HIGH stand for numbers and NAME for a name.

    `when`: what it is logged with; empty for one of every step, or of every evaluation if it is `eval/`.
    """

    name: str
    unit: str
    description: str
    when: str = ""
    commands: tuple[str, ...] = ("fit",)

    @property
    def prefix(self) -> str:
        """The part of the name before its slash; empty without one."""
        return self.name.rpartition("/")[0]


SECTIONS = {
    "": "What places a line. In MLflow `rollout_step` is the step.",
    "rollout": "The responses that a step trains on. Easy and hard questions are those that "
    "`objective.hard_signal` tells apart; without that signal all are easy.",
    "reward": "Of the same responses, after grading and shaping. OptimalLengthPenalty is the default of "
    "`objective.shaping`.",
    "probe": "Questions that are set apart: answered at each step, never trained on.",
    "loss": "Means over the response tokens of a step's updates, whatever `objective.aggregation` is.",
    "optimizer": "The optimizer steps of a rollout step.",
    "engine": "How far engine and trainer differ.",
    "time": "Where the seconds of a step go, an evaluation apart. generate, score, waiting, collate and "
    "probe are means over the processes, the others are of the first process. On a GPU a phase's time is "
    "the device's.",
    "signal": "The state of a signal's callback after the step. `configs/ceeh.yaml` has RollingDifficulty "
    "and OptimalLength.",
    "eval": "Held-out questions: before training (step 0), after it (the last step), and every "
    "`evaluation.every_n_steps` steps, or of ceeh.sft `evaluate_every_n_steps`. At both ends of ceeh.fit "
    "those that `summary.json` has equal it.",
    "system": "MLflow's names and units, means over the samples since the step before, of the first "
    "process's machine.",
}
"""By the part of a name before its slash, in the order of the page."""

HARD = "ceeh.callbacks.difficulty.RollingDifficulty"
RELEASED = "ceeh.callbacks.released_difficulty.ReleasedDifficulty"
LENGTH = "ceeh.callbacks.optimal_length.OptimalLength"
TARGETS = "ceeh.callbacks.difficulty_targets.DifficultyTargets"
CONTROLLERS = "ceeh.callbacks.controllers"
PENALTY = "ceeh.modules.shaping.OptimalLengthPenalty"

METRICS = (
    Metric("rollout_step", "count", "Rollout steps done; 0 is the base.", commands=BOTH),
    Metric(
        "global_step",
        "count",
        "Lightning's own count, one less than `rollout_step` in training; not in MLflow.",
        commands=BOTH,
    ),
    Metric("epoch", "count", "Lightning's own: 0, and 1 once training has ended.", commands=BOTH),
    Metric("rollout/step", "count", "Rollout steps done; of ceeh.sft, steps.", commands=BOTH),
    Metric("rollout/accuracy", "fraction", "Correct responses."),
    Metric("rollout/accuracy_easy", "fraction", "Correct responses to easy questions."),
    Metric("rollout/accuracy_hard", "fraction", "Correct responses to hard questions."),
    Metric(
        "rollout/all_correct_fraction", "fraction", "Questions whose responses are all correct."
    ),
    Metric("rollout/all_wrong_fraction", "fraction", "Questions without a correct response."),
    Metric("rollout/tokens_mean", "tokens", "Length of a response, mean."),
    Metric("rollout/tokens_min", "tokens", "Length of the shortest response."),
    Metric("rollout/tokens_max", "tokens", "Length of the longest response."),
    Metric("rollout/tokens_correct", "tokens", "Mean length of correct responses."),
    Metric("rollout/tokens_wrong", "tokens", "Mean length of incorrect responses."),
    Metric("rollout/tokens_easy", "tokens", "Mean length of responses to easy questions."),
    Metric("rollout/tokens_hard", "tokens", "Mean length of responses to hard questions."),
    Metric("rollout/tokens_total", "tokens", "Response tokens that were trained on."),
    Metric(
        "rollout/truncated_fraction",
        "fraction",
        "Responses without an end token, mostly cut at `rollouts.max_response_tokens`.",
    ),
    Metric("rollout/completions_min", "count", "Fewest responses to a question."),
    Metric("rollout/completions_max", "count", "Most responses to a question."),
    Metric(
        "rollout/dropped_groups",
        "count",
        "Questions that `rollouts.dynamic_sampling` generated and left out; 0 without it.",
    ),
    Metric(
        "rollout/sampling_rounds",
        "count",
        "Rounds of generation, mean over processes; 1 without `rollouts.dynamic_sampling`.",
    ),
    Metric(
        "rollout/tokens_per_second",
        "tokens/s",
        "Generated tokens, of dropped groups too, per second of generation, summed over processes.",
    ),
    Metric("reward/mean", "reward", "Shaped reward of a response, mean."),
    Metric("reward/shaping", "reward", "What `objective.shaping` added to the score, mean."),
    Metric(
        "reward/std_mean",
        "reward",
        "Standard deviation (n - 1) of a group's rewards, mean over groups; TRL's reward_std.",
    ),
    Metric(
        "reward/zero_std_fraction",
        "fraction",
        "Groups whose rewards are all equal, TRL's frac_reward_zero_std; the run stops after "
        "`rollouts.max_flat_steps` steps at 1.",
    ),
    Metric(
        "reward/outcome_NAME",
        "count",
        "Responses by how grading went: ok, no_answer, unreadable (reference), and the failures "
        "timeout, error, invalid, died and memory.",
    ),
    Metric(
        "reward/gate_open",
        "fraction",
        "Responses to questions whose accuracy is not below its history, where the penalty acts.",
        f"`{PENALTY}`",
    ),
    Metric(
        "reward/length_penalty",
        "reward",
        "What the penalty adds to a correct response, mean; below 0 where it is longer than L_x.",
        f"`{PENALTY}`",
    ),
    Metric(
        "probe/accuracy",
        "fraction",
        "Mean over questions of the correct share of their responses.",
        "`rollouts.probe.questions` above 0",
    ),
    Metric(
        "probe/tokens_mean",
        "tokens",
        "Length of a response, mean.",
        "`rollouts.probe.questions` above 0",
    ),
    Metric(
        "loss/policy",
        "per token",
        "Policy loss: the clipped one, or CISPO's, times the importance weight.",
    ),
    Metric(
        "loss/kl",
        "nats/token",
        "KL(policy, starting policy), k3 estimate, before its coefficient.",
        "`objective.kl_coefficient` above 0",
    ),
    Metric(
        "loss/ppo_kl",
        "nats/token",
        "Old log-prob minus log-prob: an estimate of KL(old policy, policy), verl's actor/ppo_kl. It can "
        "be negative, and with `objective.old_logprobs=engine` it has the engine's difference in it.",
    ),
    Metric(
        "loss/abs_log_ratio",
        "nats/token",
        "Absolute difference of log-prob and old log-prob.",
    ),
    Metric(
        "loss/ratio",
        "ratio",
        "Probability over old probability, of the token or with `objective.ratio=sequence` its response.",
    ),
    Metric(
        "loss/entropy", "nats/token", "Entropy of the policy at the temperature of the rollouts."
    ),
    Metric("loss/entropy_easy", "nats/token", "The same on easy questions."),
    Metric("loss/entropy_hard", "nats/token", "The same on hard questions."),
    Metric(
        "loss/entropy_bonus",
        "per token",
        "Lambda times the entropy, or what EA adds to the advantage.",
    ),
    Metric(
        "loss/clipped_high_fraction",
        "fraction",
        "Tokens of positive advantage with a ratio above 1 + `objective.clip_high`.",
    ),
    Metric(
        "loss/clipped_low_fraction",
        "fraction",
        "Tokens of negative advantage with a ratio below 1 - `objective.clip_low`.",
    ),
    Metric(
        "loss/dual_clipped_fraction",
        "fraction",
        "Tokens of negative advantage with a ratio above `objective.dual_clip`.",
    ),
    Metric(
        "loss/importance_truncated_fraction",
        "fraction",
        "Tokens whose importance weight is at `objective.importance_cap`, or 0; none with "
        "`objective.old_logprobs=engine`.",
    ),
    Metric(
        "loss/nats_per_token",
        "nats/token",
        "Negative log-likelihood of the demonstrations' responses.",
        commands=SFT,
    ),
    Metric("loss/tokens", "tokens", "Response tokens of the step.", commands=SFT),
    Metric(
        "optimizer/grad_norm",
        "norm",
        "Norm of the gradient before clipping, mean over the updates.",
        commands=BOTH,
    ),
    Metric("optimizer/lr", "rate", "Learning rate of the next update.", commands=BOTH),
    Metric(
        "optimizer/padding_fraction",
        "fraction",
        "Padding among the tokens of the micro-batches, of the first process.",
        commands=BOTH,
    ),
    Metric(
        "optimizer/skipped_in_a_row",
        "count",
        "Updates in a row that were skipped as not finite, up to now; "
        "`optimizer.max_skipped_updates` stop the run.",
        commands=BOTH,
    ),
    Metric(
        "optimizer/tokens_per_second",
        "tokens/s",
        "Prompt and response tokens of the first process per second of forward, backward and optimizer.",
        commands=BOTH,
    ),
    Metric(
        "optimizer/mfu",
        "fraction",
        "Model FLOPs utilization: FLOP/s that the update needs, of the device's dense bf16 peak.",
        "a GPU whose peak is known",
        commands=BOTH,
    ),
    Metric(
        "engine/mismatch_kl",
        "nats/token",
        "KL(engine, trainer), k3 estimate; with `objective.old_logprobs=engine` the drift of a step's "
        "later updates is in it.",
    ),
    Metric(
        "engine/canary_difference",
        "nats",
        "Mean log-prob difference on the canary after the push; `rollouts.canary_tolerance` limits it.",
    ),
    Metric("engine/canary_difference_max", "nats", "The largest of a token."),
    Metric("time/step", "seconds", "The whole step.", commands=BOTH),
    Metric("time/generate", "seconds", "Sampling the responses."),
    Metric("time/score", "seconds", "Grading them."),
    Metric("time/waiting", "seconds", "Waiting for the rollouts of the slowest process."),
    Metric("time/waiting_max", "seconds", "The same, of the process that waits longest."),
    Metric("time/collate", "seconds", "Making the batch."),
    Metric(
        "time/probe",
        "seconds",
        "Answering and grading the probe questions.",
        "`rollouts.probe.questions` above 0",
    ),
    Metric(
        "time/update",
        "seconds",
        "The training step; old_logprobs, forward, backward and optimizer are parts of it.",
        commands=BOTH,
    ),
    Metric(
        "time/old_logprobs",
        "seconds",
        "The forward pass before the updates.",
        "`objective.old_logprobs=trainer`, or an entropy bonus with `objective.entropy.top_fraction` "
        "below 1",
    ),
    Metric("time/forward", "seconds", "Forward passes, with the loss.", commands=BOTH),
    Metric("time/backward", "seconds", "Backward passes.", commands=BOTH),
    Metric("time/optimizer", "seconds", "Clipping and optimizer steps.", commands=BOTH),
    Metric("time/push", "seconds", "Weights to the engine, and the canary."),
    Metric(
        "time/callbacks",
        "seconds",
        "Signals, logs and checkpoints; moving the batch to the device counts here.",
        commands=BOTH,
    ),
    Metric("time/idle", "seconds", "The rest: Lightning's loop, other waits.", commands=BOTH),
    Metric(
        "time/tokens_per_second",
        "tokens/s",
        "Response tokens of all processes that were trained on, per second of the step.",
        commands=BOTH,
    ),
    Metric(
        "signal/hard_fraction",
        "fraction",
        "Hard questions, of those seen; of the step's with judged=own_group, and of "
        "ReleasedDifficulty.",
        f"`{HARD}` or `{RELEASED}`",
    ),
    Metric(
        "signal/hard_threshold",
        "fraction",
        "The accuracy below which a question is hard; of ReleasedDifficulty, up to which.",
        f"`{HARD}` or `{RELEASED}`",
    ),
    Metric(
        "signal/questions_seen",
        "count",
        "Questions with a history.",
        f"`{HARD}` or `{RELEASED}`",
    ),
    Metric(
        "signal/accuracy_history_mean",
        "fraction",
        "Mean accuracy history of the questions seen.",
        f"`{HARD}`",
    ),
    Metric(
        "signal/accuracy_history_LOW_HIGH",
        "fraction",
        "Questions seen whose history is from LOW up to HIGH percent, in steps of 20.",
        f"`{HARD}`",
    ),
    Metric(
        "signal/optimal_length_coverage",
        "fraction",
        "Questions seen whose L_x is known.",
        f"`{LENGTH}`",
    ),
    Metric(
        "signal/optimal_length_mean",
        "tokens",
        "Mean L_x of these.",
        f"`{LENGTH}`, from the first L_x",
    ),
    *(
        Metric(
            f"signal/target_length_{band}",
            "tokens",
            f"Target length of {band} questions in the step.",
            f"`{TARGETS}`",
        )
        for band in ("hard", "medium", "easy")
    ),
    Metric(
        "signal/length_coefficient",
        "coefficient",
        "Beta of the length reward in the next step.",
        f"`{CONTROLLERS}.LengthByAccuracy`",
    ),
    Metric(
        "signal/entropy_coefficient",
        "coefficient",
        "Lambda of the entropy bonus in the next step; of SkyworkEntropy, c, which acts only where the "
        "entropy is at most the target.",
        f"`{CONTROLLERS}.AnchoredEntropy` or `{CONTROLLERS}.SkyworkEntropy`",
    ),
    Metric(
        "signal/correctness_weight",
        "coefficient",
        "Weight of correctness beside efficiency in the next step, before its minimum.",
        "`ceeh.callbacks.potential_weight.PotentialScaledWeight`",
    ),
    Metric("eval/accuracy", "fraction", "Correct responses."),
    Metric("eval/tokens", "tokens", "Length of a response, mean."),
    Metric("eval/pass_at_K", "fraction", "pass@K, K being `evaluation.samples`."),
    Metric("eval/truncated_fraction", "fraction", "Responses without an end token."),
    Metric(
        "eval/entropy",
        "nats/token",
        "Entropy of the policy on its responses, each question with equal weight.",
    ),
    Metric(
        "eval/NAME_easy",
        "as NAME",
        "Each of these on the questions that are easy for the base, by other samples of it.",
        "there are such questions",
    ),
    Metric(
        "eval/NAME_hard",
        "as NAME",
        "Each of these on the others.",
        "there are such questions",
    ),
    Metric(
        "eval/nats_per_token",
        "nats/token",
        "Negative log-likelihood of the held-out demonstrations' responses.",
        "`prompts.held_out` is given",
        commands=SFT,
    ),
    Metric(
        "system/NAME",
        "in the name",
        "CPU, memory, disk, network and GPU use.",
        "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING=true in the environment",
    ),
)
