"""From questions to prompts: encoding, checks, and what identifies a set of prompts."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

from transformers import PreTrainedTokenizerBase

from ceeh.config.settings import Prompts
from ceeh.data.benchmarks import Benchmark
from ceeh.data.sources.column_map import encodable
from ceeh.errors import ConfigError, user_code
from ceeh.runtime.rng import stable_hash
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
