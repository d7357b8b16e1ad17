"""From questions to prompts, and the endless seeded stream of prompts that training draws from."""

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from transformers import PreTrainedTokenizerBase

from ceeh.config.settings import Prompts
from ceeh.data.benchmarks import Benchmark
from ceeh.data.sources.column_map import encodable
from ceeh.errors import ConfigError, user_code
from ceeh.runtime.rng import stable_hash
from ceeh.runtime.table import QuestionTable
from ceeh.runtime.text import escape, show
from ceeh.types import Prompt, Question


class PromptBuilder:
    """Encodes a question for the model, as plain text or through the tokenizer's chat template.

    The instruction is a separate paragraph after the question, in the user's last message. The system
    prompt is for questions without a system message of their own. A template's date is that of the
    settings, or today's. Raises ConfigError when the tokenizer lacks the chat template asked for, for a
    system prompt or template arguments without a chat template, and for an invalid date.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, settings: Prompts | Benchmark) -> None:
        self.place = place = "prompts." if isinstance(settings, Prompts) else ""
        for name in ("system_prompt", "chat_template_args"):
            if getattr(settings, name) and not settings.chat_template:
                raise ConfigError(
                    f"{place}{name} needs {place}chat_template: true; set it, or remove {name}"
                )
        if settings.chat_template and not tokenizer.chat_template:
            raise ConfigError(
                f"{place}chat_template is true, but the tokenizer '{tokenizer.name_or_path}' has"
                " no chat template; set it to false, or take an instruct model"
            )
        self.tokenizer = tokenizer
        self.settings = settings
        self.template_arguments = dict(settings.chat_template_args)
        if isinstance(settings, Prompts) and settings.date is not None:
            # Arguments of a template hide transformers' function of this name, which reads the clock.
            self.template_arguments["strftime_now"] = _day(settings.date).strftime

    def __call__(self, question: Question) -> Prompt:
        """The prompt, of any length: `text` is the question's, `token_ids` what the engine reads."""
        messages = list(question.messages or [("user", question.text)])
        if self.settings.instruction is not None:
            role, content = messages[-1]
            messages[-1] = (role, f"{content.rstrip()}\n\n{self.settings.instruction}")
        if self.settings.chat_template:
            token_ids = self._chat(messages)
        elif len(messages) == 1:
            token_ids = self.tokenizer(messages[0][1]).input_ids
        else:
            raise ConfigError(
                f"the question '{question.uid}' has {len(messages)} messages, which only a chat"
                f" template can join; set {self.place}chat_template: true"
            )
        if not token_ids:
            raise ConfigError(
                f"the question '{question.uid}' encodes to no token; remove it, or use a tokenizer"
                " that knows its characters"
            )
        if token_ids[-1] == self.tokenizer.eos_token_id:
            raise ConfigError(
                f"the prompt of '{question.uid}' ends in the end token '{self.tokenizer.eos_token}',"
                " after which a model does not answer; set add_eos_token to false in"
                " tokenizer_config.json (or remove the token from tokenizer.json's post-processor),"
                " or use a chat template with a generation prompt"
            )
        return Prompt(
            uid=question.uid,
            text=question.text,
            answer=question.answer,
            token_ids=tuple(token_ids),
            metadata=question.metadata,
            messages=question.messages,
        )

    def _chat(self, given: Sequence[tuple[str, str]]) -> list[int]:
        messages = [{"role": role, "content": content} for role, content in given]
        system_prompt = self.settings.system_prompt
        if system_prompt is not None and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": system_prompt})
        try:
            token_ids = self.tokenizer.apply_chat_template(
                messages,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=False,
                **self.template_arguments,
            )
        except Exception as error:  # a template is a program that came with the model
            system = messages[0]["role"] == "system"
            cure = (
                f"a template without a system role needs {self.place}system_prompt: null"
                if system
                else f"change the messages, or {self.place}chat_template_args"
            )
            raise ConfigError(
                f"the chat template of '{self.tokenizer.name_or_path}' rejects the messages"
                f" ({error}); {cure}"
            ) from error
        return list(token_ids)  # type: ignore[arg-type]

    def has_unknown(self, prompt: Prompt) -> bool:
        """Whether the tokenizer replaced unknown characters by <unk> or padding."""
        tokenizer = self.tokenizer
        special = (tokenizer.eos_token_id, tokenizer.bos_token_id)
        replacements = (tokenizer.unk_token_id, tokenizer.pad_token_id)
        return any(token in prompt.token_ids and token not in special for token in replacements)


def _day(date: str) -> datetime:
    try:
        return datetime.strptime(date, "%Y-%m-%d")
    except ValueError as error:
        raise ConfigError(f"prompts.date must be a day as YYYY-MM-DD, got '{date}'") from error


def load_prompts(source: Iterable[Question], builder: PromptBuilder, place: str) -> list[Prompt]:
    """The prompts of `source`, in its order; `place` is its config path, for messages.

    Prompts longer than `max_prompt_tokens` are dropped with one warning that counts them.
    Raises ConfigError when none is left, when a uid repeats, and for what the source refuses.
    """
    prompts: dict[str, Prompt] = {}
    try:
        for question in _checked(source):
            prompt = builder(question)
            if prompt.uid in prompts:
                raise ConfigError(
                    f"the uid '{prompt.uid}' occurs twice; give each question a unique uid"
                )
            prompts[prompt.uid] = prompt
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error
    if not prompts:
        raise ConfigError(f"{place} has no questions; name a source with at least one")
    longest = builder.settings.max_prompt_tokens
    limit = f"{builder.place}max_prompt_tokens ({longest})"
    kept = [p for p in prompts.values() if len(p.token_ids) <= longest]
    lengths = [len(prompt.token_ids) for prompt in prompts.values()]
    if not kept:
        raise ConfigError(
            f"{place}: all {len(prompts)} prompts are longer than {limit}; raise it to at least"
            f" {min(lengths)} tokens, the shortest of them"
        )
    if dropped := len(prompts) - len(kept):
        warnings.warn(
            f"{place}: dropped {dropped} of {len(prompts)} prompts longer than {limit};"
            f" the longest has {max(lengths)} tokens",
            stacklevel=2,
        )
    if unknown := [prompt.uid for prompt in kept if builder.has_unknown(prompt)]:
        warnings.warn(
            f"{place}: {len(unknown)} of {len(kept)} prompts have characters that the tokenizer"
            f" does not know, the first is '{unknown[0]}'; the model cannot see them",
            stacklevel=2,
        )
    return kept


def _checked(source: Iterable[Question]) -> Iterator[Question]:
    """The questions of a source, which may be custom code. Raises ConfigError for anything else."""
    with user_code(source, f"{type(source).__name__} fails while it is read"):
        for question in source:
            if not isinstance(question, Question):
                raise ConfigError(f"a source must yield ceeh.types.Question, got {show(question)}")
            for name in ("uid", "text", "answer"):
                value = getattr(question, name)
                if not isinstance(value, str) or not encodable(value):
                    raise ConfigError(
                        f"the {name} of a question must be valid UTF-8 text, got {show(value)}"
                    )
            if problem := faulty_messages(question.messages):
                raise ConfigError(f"the messages of '{question.uid}' {problem}")
            uid = question.uid
            if not uid.strip() or escape(uid) != uid or "\n" in uid:
                raise ConfigError(
                    f"the uid {show(uid)} must be text without control characters; it is shown"
                    " and written wherever a question is named"
                )
            yield question


def faulty_messages(messages: Any) -> str | None:
    """What is wrong with the messages of a question; None for good ones, and for none at all."""
    pairs = isinstance(messages, tuple) and all(
        isinstance(each, tuple) and len(each) == 2 and all(isinstance(part, str) for part in each)
        for each in messages
    )
    if not pairs or not all(encodable(content) for _, content in messages):
        return f"must be (role, content) pairs of valid UTF-8 text, got {show(messages)}"
    if messages and (messages[-1][0] != "user" or not messages[-1][1].strip()):
        return f"must end in the user's question, got {show(messages[-1])}"
    return None


def digests(prompts: Iterable[Prompt]) -> dict[str, str]:
    """What identifies a set of prompts, whatever their order.

    digest: the questions. rendered: what the engine reads and the verifier compares with.
    """
    parts = sorted((p.uid, f"{p.uid}\0{p.answer}\0{p.token_ids}") for p in prompts)
    uids, rendered = ("\0".join(column) for column in zip(*parts, strict=True))
    return {"digest": stable_hash(uids).hex(), "rendered": stable_hash(rendered).hex()}


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


def balanced_shares(lengths: Sequence[float], ranks: int, *, block: int) -> list[list[int]]:
    """Places in `lengths` for each rank: equal numbers of each `block` of places, about equal sums.

    The longest is given first, to the rank with the smallest sum so far that has room in the block (LPT,
    Graham 1969, https://doi.org/10.1137/0117039, with equal counts). Equal lengths: rank r gets every
    `ranks`-th place, starting with the r-th.
    """
    shares: list[list[int]] = [[] for _ in range(ranks)]
    sums = [0.0] * ranks
    for start in range(0, len(lengths), block):
        places = range(start, min(start + block, len(lengths)))
        room = [len(places) // ranks] * ranks
        for place in sorted(places, key=lambda place: -lengths[place]):
            rank = min((r for r in range(ranks) if room[r]), key=lambda r: (sums[r], -room[r]))
            shares[rank].append(place)
            sums[rank] += lengths[place]
            room[rank] -= 1
    return [sorted(share) for share in shares]


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
