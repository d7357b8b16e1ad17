"""The endless seeded stream of prompts that training draws from, and its exact resumption."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ceeh.data.balance import balanced_shares
from ceeh.data.prompts import digests
from ceeh.errors import ConfigError
from ceeh.runtime.rng import stable_hash
from ceeh.runtime.table import QuestionTable
from ceeh.types import Prompt


class PromptStream:
    """Endless steps of `prompts_per_step` prompts over all ranks; an epoch shows each prompt once.

    Epoch e sorts the prompts by a hash of (seed, e, uid), so the order depends on no rng state, on no
    Python version and not on the order of the file. No prompt repeats within a step: where a step
    crosses the end of an epoch, prompts of the next epoch that it already holds are deferred to the
    following step. Rank r of w takes every w-th prompt of a step, starting with the r-th.

    With `balanced_by` n each rank gets prompts of about equal total length instead, by the mean response
    of a question's last visit (`observe`). Each n prompts, a multiple of w, are shared out on their own: the
    minibatches of the ranks together hold the questions that they hold without balance.

    `probe` are never drawn; a resumed stream must find them unchanged, too.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        *,
        seed: int,
        prompts_per_step: int,
        rank: int = 0,
        world_size: int = 1,
        balanced_by: int | None = None,
        probe: Sequence[Prompt] = (),
    ) -> None:
        assert prompts_per_step % world_size == 0, "see check_pairs and check_sft_pairs"
        assert len(prompts) >= prompts_per_step, "see gather_inputs and gather_examples"
        self.prompts = {prompt.uid: prompt for prompt in prompts}
        assert len(self.prompts) == len(prompts), "uids are unique"
        self.seed = seed
        self.prompts_per_step = prompts_per_step
        self.rank = rank
        self.world_size = world_size
        self.balanced_by = balanced_by
        self.lengths = QuestionTable()
        self._digests = digests([*prompts, *probe])
        self.epoch = 0
        self.position = 0
        self.deferred: list[str] = []
        self.shown: dict[str, None] = {}  # in the current step; checkpoints lie between steps
        self._order = self._permutation(0)

    def next_step(self) -> list[Prompt]:
        """This rank's prompts of the next step."""
        return self.next_shares()[self.rank]

    def next_shares(self) -> list[list[Prompt]]:
        """Each rank's prompts of the next step."""
        self.shown = {}
        drawn = self._draw(self.prompts_per_step)
        if self.balanced_by is None or self.world_size == 1:
            return [drawn[rank :: self.world_size] for rank in range(self.world_size)]
        # A question that was not seen is taken for one of mean length.
        known = [self.lengths[prompt.uid] for prompt in drawn]
        mean = self.lengths.mean() if len(self.lengths) else 0.0
        expected = [mean if math.isnan(length) else length for length in known]
        shares = balanced_shares(expected, self.world_size, block=self.balanced_by)
        return [[drawn[place] for place in share] for share in shares]

    def observe(self, lengths: Iterable[tuple[str, float]]) -> None:
        """Takes in (uid, mean tokens of its responses); every rank those of all ranks, in one order."""
        if self.balanced_by is not None and self.world_size > 1:
            for uid, mean in lengths:
                self.lengths[uid] = mean

    @property
    def exhausted(self) -> bool:
        """Whether the current step has shown every prompt."""
        return len(self.shown) == len(self.prompts)

    def further(self, counts: Sequence[int]) -> list[Prompt]:
        """This rank's share when each rank r needs counts[r] more prompts that the step has not shown.

        Every rank must pass the same counts. Fewer are left when the step has shown nearly all prompts.
        """
        first = sum(counts[: self.rank])
        more = self._draw(min(sum(counts), len(self.prompts) - len(self.shown)))
        return more[first : first + counts[self.rank]]

    def _draw(self, count: int) -> list[Prompt]:
        waiting = [uid for uid in self.deferred if uid not in self.shown][:count]
        drawn = dict.fromkeys(waiting)
        self.deferred = [uid for uid in self.deferred if uid not in drawn]
        while len(drawn) < count:
            if self.position == len(self._order):
                self.epoch, self.position = self.epoch + 1, 0
                self._order = self._permutation(self.epoch)
            uid = self._order[self.position]
            self.position += 1
            if uid in self.shown or uid in drawn:
                self.deferred.append(uid)
            else:
                drawn[uid] = None
        self.shown |= drawn
        return [self.prompts[uid] for uid in drawn]

    def state_dict(self) -> dict[str, Any]:
        """The position in plain containers, identical on every rank."""
        return {
            "epoch": self.epoch,
            "position": self.position,
            "deferred": list(self.deferred),
            "lengths": self.lengths.state_dict(),
            "seed": self.seed,
            **self._digests,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the position of `state`. Raises ConfigError if the prompts or the seed changed."""
        check_stream(state, self._digests, self.seed)
        if state["epoch"] != self.epoch:
            self._order = self._permutation(state["epoch"])
        self.epoch, self.position = state["epoch"], state["position"]
        self.deferred = list(state["deferred"])
        self.lengths.load_state_dict(state["lengths"])

    def _permutation(self, epoch: int) -> list[str]:
        return sorted(self.prompts, key=lambda uid: stable_hash(f"{self.seed}/{epoch}/{uid}"))


def check_stream(state: Mapping[str, Any], own: Mapping[str, str], seed: int) -> None:
    """Raises ConfigError where a stream's `state` was saved with other `digests` or another seed."""
    if state["digest"] != own["digest"]:
        raise ConfigError(
            f"prompts.train is not the data set of the checkpoint (digest {own['digest']}, in the"
            f" checkpoint {state['digest']}); resume with the same questions, or start a new run"
            " without ckpt_path"
        )
    if state.get("rendered") != own["rendered"]:
        raise ConfigError(
            "the questions of prompts.train are those of the checkpoint, but their prompts or"
            " answers are not; resume with its prompts.system_prompt, instruction, chat_template,"
            " chat_template_args and tokenizer, set prompts.date to the day of its start if the"
            " template writes today's date, or start a new run without ckpt_path"
        )
    if state["seed"] != seed:
        raise ConfigError(
            f"seed is {seed}, but the checkpoint's prompts were drawn with {state['seed']}; resume"
            " with that seed, or start a new run without ckpt_path"
        )
