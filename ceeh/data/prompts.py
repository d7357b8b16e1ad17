"""Questions to prompts, and the endless seeded stream of prompts that training draws from."""

import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from ceeh.errors import ConfigError, user_code
from ceeh.runtime.rng import stable_hash
from ceeh.runtime.text import escape, show
from ceeh.types import Prompt, Question

SURROGATE = re.compile("[\ud800-\udfff]")


class PromptBuilder:
    """Encodes a question for the model: as it stands, or through the tokenizer's chat template.

    `instruction` follows the question as a paragraph of its own, in the user's message.
    `max_prompt_tokens` is applied by `load_prompts`. Raises ConfigError when the tokenizer has no
    chat template, and when a system prompt is given without one.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_prompt_tokens: int,
        chat_template: bool,
        system_prompt: str | None,
        instruction: str | None,
    ) -> None:
        if system_prompt is not None and not chat_template:
            raise ConfigError(
                "prompts.system_prompt needs prompts.chat_template: true; set it, or drop the"
                " system prompt"
            )
        if chat_template and not tokenizer.chat_template:
            raise ConfigError(
                f"prompts.chat_template is true, but the tokenizer '{tokenizer.name_or_path}' has"
                " no chat template; set it to false, or model.path to an instruct model"
            )
        self.tokenizer = tokenizer
        self.max_prompt_tokens = max_prompt_tokens
        self.chat_template = chat_template
        self.system_prompt = system_prompt
        self.instruction = instruction

    def __call__(self, question: Question) -> Prompt:
        """The prompt, of any length: `text` is the question's, `token_ids` what the engine reads."""
        text = question.text
        if self.instruction is not None:
            text = f"{text.rstrip()}\n\n{self.instruction}"
        token_ids = self._chat(text) if self.chat_template else self._plain(text)
        if not token_ids:
            raise ConfigError(
                f"the question '{question.uid}' encodes to no token; remove it, or use a tokenizer"
                " that knows its characters"
            )
        return Prompt(
            uid=question.uid,
            text=question.text,
            answer=question.answer,
            token_ids=tuple(token_ids),
            metadata=question.metadata,
        )

    def _plain(self, text: str) -> list[int]:
        return list(self.tokenizer(text).input_ids)

    def _chat(self, text: str) -> list[int]:
        messages = [{"role": "user", "content": text}]
        if self.system_prompt is not None:
            messages.insert(0, {"role": "system", "content": self.system_prompt})
        try:
            token_ids = self.tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=True, return_dict=False
            )
        except Exception as error:  # a template is a program that came with the model
            raise ConfigError(
                f"the chat template of '{self.tokenizer.name_or_path}' refuses the messages"
                f" ({error}); a template without a system role needs prompts.system_prompt: null"
            ) from error
        return list(token_ids)  # type: ignore[arg-type]

    def unknown(self, prompt: Prompt) -> bool:
        """Whether the tokenizer put <unk> or padding for characters that it does not know."""
        tokenizer = self.tokenizer
        known = (tokenizer.eos_token_id, tokenizer.bos_token_id)
        stand_ins = (tokenizer.unk_token_id, tokenizer.pad_token_id)
        return any(token in prompt.token_ids and token not in known for token in stand_ins)


def load_prompts(source: Iterable[Question], builder: PromptBuilder, place: str) -> list[Prompt]:
    """The prompts of `source`, in its order; `place` is its config path, for messages.

    Prompts longer than `builder.max_prompt_tokens` are dropped with one warning that counts them.
    Raises ConfigError when none is left, when a uid occurs twice, and for what the source refuses.
    """
    prompts: dict[str, Prompt] = {}
    too_long: list[int] = []
    try:
        for question in _asked(source):
            prompt = builder(question)
            if prompt.uid in prompts:
                raise ConfigError(
                    f"the uid '{prompt.uid}' occurs twice; give each question its own"
                )
            prompts[prompt.uid] = prompt
            if len(prompt.token_ids) > builder.max_prompt_tokens:
                too_long.append(len(prompt.token_ids))
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error
    if not prompts:
        raise ConfigError(f"{place} has no questions; name a source with at least one")
    limit = f"prompts.max_prompt_tokens ({builder.max_prompt_tokens})"
    kept = [p for p in prompts.values() if len(p.token_ids) <= builder.max_prompt_tokens]
    if not kept:
        raise ConfigError(
            f"{place}: all {len(prompts)} prompts are longer than {limit}; raise it to at least"
            f" {min(too_long)} tokens, the shortest of them"
        )
    if too_long:
        warnings.warn(
            f"{place}: dropped {len(too_long)} of {len(prompts)} prompts longer than {limit};"
            f" the longest has {max(too_long)} tokens",
            stacklevel=2,
        )
    unknown = [prompt.uid for prompt in kept if builder.unknown(prompt)]
    if unknown:
        warnings.warn(
            f"{place}: {len(unknown)} of {len(kept)} prompts have characters that the tokenizer"
            f" does not know, '{unknown[0]}' the first; the model cannot see them",
            stacklevel=2,
        )
    return kept


def _asked(source: Iterable[Question]) -> Iterator[Question]:
    """The questions that a source, perhaps the user's own, gives. Raises ConfigError for anything else."""
    with user_code(source, f"{type(source).__name__} fails while it is read"):
        for question in source:
            if not isinstance(question, Question):
                raise ConfigError(f"a source must give ceeh.types.Question, got {show(question)}")
            for name in ("uid", "text", "answer"):
                value = getattr(question, name)
                if not isinstance(value, str) or SURROGATE.search(value):
                    raise ConfigError(
                        f"the {name} of a question must be text that UTF-8 can hold, got {show(value)}"
                    )
            uid = question.uid
            if not uid.strip() or escape(uid) != uid or "\n" in uid:
                raise ConfigError(
                    f"the uid {show(uid)} must be text without control characters; it is shown "
                    "and written wherever a question is named"
                )
            yield question


class PromptStream:
    """Endless steps of `prompts_per_step` prompts over all ranks; an epoch shows each prompt once.

    The order of epoch e sorts the prompts by a hash of (seed, e, uid): it depends on no generator,
    no Python version and not on the order of the file. No prompt comes twice within a step: where a
    step runs over the end of an epoch, prompts of the next epoch that it has already are deferred
    to the step after. Rank r of w takes every w-th prompt of a step, beginning with the r-th.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        *,
        seed: int,
        prompts_per_step: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if prompts_per_step % world_size:
            raise ConfigError(
                f"rollouts.prompts_per_step must be a multiple of the number of ranks"
                f" ({world_size}), got {prompts_per_step}"
            )
        if len(prompts) < prompts_per_step:
            raise ConfigError(
                f"rollouts.prompts_per_step is {prompts_per_step}, but prompts.train has only"
                f" {len(prompts)} prompts; lower it or add questions"
            )
        self.prompts = {prompt.uid: prompt for prompt in prompts}
        assert len(self.prompts) == len(prompts), "uids are unique"
        self.seed = seed
        self.prompts_per_step = prompts_per_step
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.position = 0
        self.deferred: list[str] = []
        self.shown: dict[str, None] = {}  # by the present step; checkpoints lie between steps
        self._order = self._permutation(0)

    def next_step(self) -> list[Prompt]:
        """This rank's prompts of the next step."""
        self.shown = {}
        return self._draw(self.prompts_per_step)[self.rank :: self.world_size]

    @property
    def exhausted(self) -> bool:
        """Whether the present step has shown every prompt."""
        return len(self.shown) == len(self.prompts)

    def further(self, counts: Sequence[int]) -> list[Prompt]:
        """This rank's share of counts[r] more prompts for each rank r, none that the step has shown.

        Every rank must ask for the same counts. Fewer come when the step has shown nearly all prompts.
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
        """The position, the same on every rank, in plain containers."""
        return {
            "epoch": self.epoch,
            "position": self.position,
            "deferred": list(self.deferred),
            "seed": self.seed,
            "digest": self.digest,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where `state` was taken. Raises ConfigError for other prompts or seed."""
        if state["digest"] != self.digest:
            raise ConfigError(
                f"prompts.train is not the data set of the checkpoint (digest {self.digest},"
                f" there {state['digest']}); resume with the same questions, or start anew without"
                " ckpt_path"
            )
        if state["seed"] != self.seed:
            raise ConfigError(
                f"seed is {self.seed}, but the checkpoint's prompts were drawn with"
                f" {state['seed']}; resume with that seed, or start anew without ckpt_path"
            )
        if state["epoch"] != self.epoch:
            self._order = self._permutation(state["epoch"])
        self.epoch, self.position = state["epoch"], state["position"]
        self.deferred = list(state["deferred"])

    def _permutation(self, epoch: int) -> list[str]:
        return sorted(self.prompts, key=lambda uid: stable_hash(f"{self.seed}/{epoch}/{uid}"))

    @cached_property
    def digest(self) -> str:
        """What tells one set of prompts from another, whatever their order."""
        return stable_hash("\0".join(sorted(self.prompts))).hex()
