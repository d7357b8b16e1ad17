"""Settings and metrics described: `--help-config` of the commands, and two pages of docs/.

python -m ceeh.config.reference configuration > docs/configuration.md
python -m ceeh.config.reference metrics > docs/metrics.md
"""

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass
from typing import Any, NamedTuple, NoReturn, get_args

from ceeh.config.component import Component
from ceeh.config.metrics import METRICS, SECTIONS, Metric
from ceeh.config.settings import Config
from ceeh.config.sft import SFTConfig
from ceeh.config.study import StudyConfig
from ceeh.config.typed import type_words
from ceeh.errors import ConfigError

HEAD = """# Configuration

Every setting of `python -m ceeh.fit`. Set it in a YAML file (`--config FILE`) or on the command line
(`optimizer.lr=1e-5`). Later files win over earlier ones, and the command line wins over files.
`--help-config [PREFIX]` prints this list and `--print-config` the values of a run. A class is given by
`class_path` (`package.module.Class` or `path/to/file.py:Class`) and its arguments, `init_args`. Null removes
an entry of `callbacks` and `{}` all of them. YAML is read by its version 1.2, in which `no` is text.
Top-level keys that start with `x-` are ignored; they may hold anchors. `${rollouts.steps}` stands for the
value of another setting.
"Paper" is [arXiv 2602.22642](https://arxiv.org/abs/2602.22642), "eq." one of its equations.
"""
SFT_HEAD = """
# Supervised training

The settings of `python -m ceeh.sft`. It shares the sections {} with a run.
"""
STUDY_HEAD = """
# Studies

The settings of `python -m ceeh.study FILE` ([study.md](study.md)). NAME stands for a name of your choice.
"""
TABLE = "| setting | value | default | description |\n|---|---|---|---|"
METRICS_HEAD = """# Metrics

Every metric of `python -m ceeh.fit` and `python -m ceeh.sft`, by its name in `metrics.jsonl` (one line per
step), MLflow and other loggers. Values are over all processes where nothing else is said. A mean over
nothing, such as the entropy of hard questions in a step without one, is null in `metrics.jsonl` and left out
in MLflow. NAME stands for a name, K, LOW and HIGH for numbers. Your own classes add `signal/NAME`, what the
method `metrics` of a signal returns, and `reward/NAME`, the mean over responses of what that of a length
reward returns; Lightning callbacks log under their own names. What `ceeh.evaluate` measures:
[protocol.md](protocol.md#metrics).
"""
METRICS_TABLE = "| metric | unit | command | logged | description |\n|---|---|---|---|---|"


class Entry(NamedTuple):
    """A setting in words; `value` is its type and rule. A section, which holds settings, has neither."""

    path: str
    value: str
    default: str
    description: str


def entries(schema: type, prefix: str = "") -> Iterator[Entry]:
    """The settings of `schema`, each section before its settings."""
    for item in fields(schema):
        path, rule = f"{prefix}{item.name}", item.metadata.get("rule")
        about = item.metadata["description"]
        if is_dataclass(item.type) and item.type is not Component:
            yield Entry(path, "", "", about)
            yield from entries(item.type, f"{path}.")  # type: ignore[arg-type]  # is_dataclass
            continue
        value = _type(item.type) + (f", {rule.words}" if rule else "")
        yield Entry(path, value, default_words(item), about)
        each = (get_args(item.type) or (None,))[-1]
        if is_dataclass(each) and each is not Component:
            yield from entries(each, f"{path}.NAME.")  # type: ignore[arg-type]  # is_dataclass


def _type(annotation: Any) -> str:
    """`type_words` for a table: without articles, and a class is a class."""
    if annotation is Component:
        return "class"
    if annotation == dict[str, Component]:
        return "by name: class"
    return re.sub(r"\ba (?=\w)", "", type_words(annotation))


def default_words(item: Any) -> str:
    value = item.default if item.default_factory is MISSING else item.default_factory()
    if value is MISSING or value == Component():
        return "none"
    if isinstance(value, Component):
        return value.class_path + (f" {json.dumps(value.init_args)}" if value.init_args else "")
    return str(value) if isinstance(value, str) else json.dumps(value, default=asdict)


def help_text(schemas: Sequence[type], prefix: str = "") -> str:
    """The settings at and below `prefix`. Raises ConfigError where there are none."""
    known = [entry for schema in schemas for entry in entries(schema)]
    found = [e for e in known if not prefix or f"{e.path}.".startswith(f"{prefix}.")]
    if not found:
        names = ", ".join(e.path for e in known if "." not in e.path)
        raise ConfigError(f"no setting '{prefix}'; give one of {names}, or a path below one")
    return "\n".join(
        f"{e.path}{f'  ({e.value}; default {e.default})' if e.value else ':'}\n    {e.description}"
        for e in found
    )


def configuration_page() -> str:
    """docs/configuration.md: the top-level settings, a table per section, those of other commands."""
    top, sections = [HEAD, TABLE], []
    for entry in entries(Config):
        if entry.value:
            (sections if "." in entry.path else top).append(row(entry))
        elif "." not in entry.path:
            sections += [f"\n## {entry.path}\n\n{entry.description}\n", TABLE]
    shared = [item.name for item in fields(SFTConfig) if is_dataclass(item.type)]
    sections += [SFT_HEAD.format(", ".join(f"`{name}`" for name in shared)), TABLE]
    sections += [
        row(entry) for entry in entries(SFTConfig) if "." not in entry.path and entry.value
    ]
    sections += [STUDY_HEAD, TABLE, *(row(e) for e in entries(StudyConfig) if e.value)]
    return "\n".join(top + sections) + "\n"


def metrics_page() -> str:
    """docs/metrics.md: a table per prefix."""
    page = [METRICS_HEAD.rstrip()]
    for prefix, about in SECTIONS.items():
        page += [f"\n## {prefix or 'Line'}\n\n{about}\n", METRICS_TABLE]
        page += [metric_row(each) for each in METRICS if each.prefix == prefix]
    return "\n".join(page) + "\n"


def metric_row(metric: Metric) -> str:
    always = {"": "each line", "eval": "each evaluation"}.get(metric.prefix, "each step")
    cells = f"`{metric.name}`", metric.unit, ", ".join(metric.commands), metric.when or always
    return f"| {' | '.join(cells)} | {metric.description} |"


PAGES = {"configuration": configuration_page, "metrics": metrics_page}
"""The generated files of docs/, by their stem."""


class CommandParser(argparse.ArgumentParser):
    """The parser of a command with settings: they come from files and as key=value, without dashes."""

    def add_settings(self, *schemas: type, example: str) -> None:
        """--config, --help-config and key=value; call it after the command's other positional arguments."""
        self.add_argument(
            "--config",
            action="append",
            default=[],
            metavar="FILE",
            help="YAML file; later files win",
        )
        self.add_argument("--help-config", action=HelpConfig, schemas=schemas)
        self.add_argument("overrides", nargs="*", metavar="key=value", help=f"e.g. {example}")

    def error(self, message: str) -> NoReturn:
        name, _, words = message.partition(": ")
        settings = [word.lstrip("-") for word in words.split() if word.startswith("--")]
        if name == "unrecognized arguments" and settings and "=" in "".join(settings):
            message += f"; settings are written without dashes: {' '.join(settings)}"
        super().error(message)


def row(entry: Entry) -> str:
    return f"| `{entry.path}` | {entry.value} | `{entry.default}` | {entry.description} |"


class HelpConfig(argparse.Action):
    """`--help-config [PREFIX]`: prints the settings of `schemas` and exits, as --help does."""

    def __init__(self, *arguments: Any, schemas: Sequence[type], **options: Any) -> None:
        words = "describe all settings, or those under PREFIX (e.g. rollouts), and exit"
        super().__init__(*arguments, nargs="?", metavar="PREFIX", help=words, **options)
        self.schemas = schemas

    def __call__(
        self, parser: argparse.ArgumentParser, _: Any, prefix: Any, __: Any = None
    ) -> None:
        try:
            print(help_text(self.schemas, prefix or ""))
        except ConfigError as error:
            parser.error(str(error))
        parser.exit()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("page", choices=PAGES)
    print(PAGES[parser.parse_args().page](), end="")
