"""The model card of an export: what the model is, how it was trained, what was measured, how to load it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ceeh.config.component import Component
from ceeh.config.settings import Config, Prompts
from ceeh.config.writing import to_yaml
from ceeh.reporting.pareto import write_pareto
from ceeh.reporting.run_page import summary_grid
from ceeh.runtime.paths import expanded
from ceeh.runtime.text import redact
from ceeh.runtime.versions import provenance

TEMPLATE = Path(__file__).with_name("card_template.md")
SETTINGS, PICTURE, COMPLETIONS = "ceeh.yaml", "pareto.png", "completions.parquet"
METHODS = {"me": "CEEH-ME", "ea": "CEEH-EA"}
DATA_FILES = (".json", ".jsonl", ".parquet")


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """The facts of a card.

    `repo` is the name to load the folder by: a hub id, or the folder. `summary` is the run's
    summary.json if it was measured on these weights, those after `rollout_step`; `evaluation` is its
    evaluation/results.json if that was too; `mixture` is its mixture.json if it trained on one.
    """

    name: str
    repo: str
    config: Config
    rollout_step: int
    summary: Mapping[str, Any] | None
    evaluation: Mapping[str, Any] | None
    mixture: Mapping[str, Any] | None
    adapter: bool
    dtype: str
    command: str


def write_card(folder: Path, export: Export) -> None:
    """Writes README.md, the settings that it links to and, for measured weights, a plot.

    It also links to `COMPLETIONS` where `folder` has it.
    """
    settings = public(yaml.safe_load(to_yaml(export.config)))
    (folder / SETTINGS).write_text(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    if export.summary is not None:
        write_pareto(folder / PICTURE, export.summary)
    versions = {name.removeprefix("version."): value for name, value in provenance().items()}
    card = ModelCard.from_template(
        metadata(export),
        template_path=str(TEMPLATE),
        export=export,
        config=export.config,
        base=describe_base(export.config.model.path),
        method=method(export.config),
        grid=summary_grid(export.summary) if export.summary is not None else None,
        prompt=prompt_code(export.config.prompts),
        questions=describe_questions(export),
        describe=describe,
        settings=SETTINGS,
        picture=PICTURE,
        completions=COMPLETIONS if (folder / COMPLETIONS).is_file() else None,
        commit=versions.pop("git.commit", None),
        versions=", ".join(f"{name} {value}" for name, value in versions.items()),
    )
    card.save(folder / "README.md")


def public(value: Any, key: str = "") -> Any:
    """`value` without secrets, and with paths of this machine reduced to the file's name."""
    if isinstance(value, Mapping):
        return {name: public(item, str(name)) for name, item in redact(value).items()}
    if isinstance(value, list):
        return [public(item, key) for item in value]
    if isinstance(value, str) and key.endswith(("path", "output")) and value.startswith(("/", "~")):
        return PurePath(value).name
    return value


def hub_id(path: str) -> str | None:
    """`path` if it can be a hub id and is not a local folder or file."""
    if path == "starter" or Path(path).exists():
        return None
    try:
        validate_repo_id(path)
    except HFValidationError:
        return None
    return path


def base_license(base: str) -> dict[str, str]:
    """The license in the base's own card if that is local or cached; never asks the hub."""
    if base == "starter":
        return {"license": "apache-2.0"}
    stated = base_card(base)
    names = ("license", "license_name", "license_link")
    return {name: stated[name] for name in names if isinstance(stated.get(name), str)}


def base_card(base: str) -> dict[str, Any]:
    """The metadata of the base's own card, of a run's model/ too; empty where there is none."""
    folder = expanded(base)
    own = [*folder.glob("README.md"), *folder.glob("model/README.md")]
    if not own:
        cached = try_to_load_from_cache(base, "README.md") if hub_id(base) else None
        own = [Path(cached)] if isinstance(cached, str) else []
    return ModelCard.load(own[0], ignore_metadata_errors=True).data.to_dict() if own else {}


def write_supervised_card(folder: Path, *, base: str, source: Component, steps: int) -> None:
    """README.md of a model that supervised training made: base, license, and what it learned from."""
    origin = hub_id(base) or base_card(base).get("base_model")
    facts: dict[str, Any] = {"base_model": origin} | base_license(base)
    data = ModelCardData(library_name="transformers", tags=["ceeh", "sft"], **facts)
    title = f"# {PurePath(base).name}, trained on demonstrations"
    text = f"{describe_base(base)}, by `python -m ceeh.sft` on {describe(source)}. Steps: {steps}."
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n{title}\n\n{text}\n").save(folder / "README.md")


def method(config: Config) -> str:
    """The paper's name if the settings are the paper's, else reward shaping and entropy bonus."""
    shaping = config.objective.shaping.class_path.rpartition(".")[2]
    entropy = config.objective.entropy.method
    if shaping == "OptimalLengthPenalty" and entropy in METHODS:
        return METHODS[entropy]
    bonus = "no entropy bonus" if entropy == "none" else f"the entropy bonus '{entropy}'"
    return f"a comparison to CEEH ({shaping}, {bonus})"


def metadata(export: Export) -> ModelCardData:
    """Base, license, data sets and measured results, as the hub reads them."""
    path, lora = export.config.model.path, export.config.model.lora.rank > 0
    base, more = hub_id(path), dict[str, Any](base_license(path))
    if base:
        more["base_model_relation"] = "adapter" if export.adapter else "finetune"
    return ModelCardData(
        base_model=base,
        datasets=datasets(training_sources(export)) or None,
        library_name="peft" if export.adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["ceeh", "reasoning", "efficient-reasoning", *(["lora"] if lora else [])],
        **results(export),
        **more,
    )


def training_sources(export: Export) -> list[Component]:
    if export.mixture is None:
        return [export.config.prompts.train]
    return mixture_sources(export.mixture)


def mixture_sources(mixture: Mapping[str, Any]) -> list[Component]:
    sources = [part["source"] for part in mixture["parts"]]
    return [Component(one["class_path"], one.get("init_args", {})) for one in sources]


def datasets(sources: list[Component]) -> list[str]:
    """Hub ids of the tables among `sources`."""
    paths = [str(source.init_args.get("path", "")) for source in sources]
    return sorted(
        {path for path in paths if "/" in path and not path.endswith(DATA_FILES) and hub_id(path)}
    )


def results(export: Export) -> dict[str, Any]:
    """Every metric that was measured: of the run's held-out questions, and of benchmarks."""
    found: list[EvalResult] = []
    if export.summary is not None:
        held_out, questions = export.config.prompts.held_out, export.summary["questions"]["all"]
        source = next(iter(datasets([held_out])), held_out.class_path.rpartition(".")[2])
        name = f"{source}, {questions} held-out questions"
        measured = export.summary["tuned"]["all"]
        found += eval_results(source, name, measured, export.config.rollouts)
    for key, benchmark in (export.evaluation or {"benchmarks": {}})["benchmarks"].items():
        settings = benchmark["settings"]
        table = settings["questions"]["init_args"]
        source = next(iter(datasets([Component(**settings["questions"])])), key)
        metrics = {name: value for name, value in benchmark["metrics"].items() if value is not None}
        found += eval_results(
            source,
            f"{settings['title']}, {benchmark['questions']} questions",
            metrics,
            settings,
            config=table.get("name"),
            split=table.get("split"),
        )
    return {"model_name": export.name, "eval_results": found} if found else {}


def eval_results(
    dataset: str,
    name: str,
    metrics: Mapping[str, Any],
    sampling: Any,
    *,
    config: str | None = None,
    split: str | None = None,
) -> list[EvalResult]:
    """One result per metric, with its interval and how the responses were sampled."""
    given = sampling if isinstance(sampling, Mapping) else asdict(sampling)
    protocol = {key: given[key] for key in ("temperature", "top_p", "max_response_tokens")}
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=dataset,
            dataset_name=name,
            dataset_config=config,
            dataset_split=split,
            dataset_args=protocol,
            metric_type=metric,
            metric_name=f"{metric}, 95 % interval [{value['low']:.4g}, {value['high']:.4g}]",
            metric_value=round(value["value"], 4),
        )
        for metric, value in metrics.items()
    ]


def describe_base(path: str) -> str:
    if path == "starter":
        return "The starter model that ships with ceeh"
    if found := hub_id(path):
        return f"[{found}](https://huggingface.co/{found})"
    return f"`{PurePath(path).name}` (a local folder)"


def describe(component: Component) -> str:
    settings = public({"class_path": component.class_path, **component.init_args})
    class_path = settings.pop("class_path")
    arguments = ", ".join(f"{name}: {value}" for name, value in settings.items())
    text = f"`{class_path}`" + (f" ({arguments})" if arguments else "")
    return text.replace("|", "\\|").replace("\n", " ")  # as the cell of a table


def describe_questions(export: Export) -> str:
    """The source; for a mixture, what it drew and what it dropped."""
    if export.mixture is None:
        return describe(export.config.prompts.train)
    return describe_mixture(export.mixture)


def describe_mixture(mixture: Mapping[str, Any]) -> str:
    parts = [
        f"{part['name']}: {part['drawn']} of {part['read']}, {describe(source)}, without "
        f"{part['duplicates']} duplicates and {sum(part['contaminated'].values())} that repeat a "
        "benchmark's"
        for part, source in zip(mixture["parts"], mixture_sources(mixture), strict=True)
    ]
    against = ", ".join(mixture["benchmarks"])
    compared = (
        f"compared with {against} by {mixture['ngram']}-grams over {mixture['coverage']:.0%} of a question"
        if against
        else "not compared with any benchmark"
    )
    return f"{'; '.join(parts)}; {compared}"


def prompt_code(prompts: Prompts) -> str:
    """A Python expression that turns `question` into the model's prompt."""
    text = "question"
    if prompts.instruction is not None:
        text = f"question.rstrip() + {chr(10) * 2 + prompts.instruction!r}"
    if not prompts.chat_template:
        return text
    system = f'{{"role": "system", "content": {prompts.system_prompt!r}}}, '
    messages = f'[{system if prompts.system_prompt else ""}{{"role": "user", "content": {text}}}]'
    options = {"tokenize": False, "add_generation_prompt": True} | prompts.chat_template_args
    given = ", ".join(f"{name}={value!r}" for name, value in options.items())
    return f"tokenizer.apply_chat_template({messages}, {given})"
