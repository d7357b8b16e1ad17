"""The model card of an export: what the model is, how it was made, what was measured, how to load it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ceeh.config.settings import Component, Config, Prompts, to_yaml
from ceeh.reporting.pareto import write_pareto
from ceeh.reporting.run_page import summary_grid
from ceeh.runtime.text import redact
from ceeh.runtime.versions import provenance

SETTINGS, PICTURE = "ceeh.yaml", "pareto.png"
METHODS = {"me": "CEEH-ME", "ea": "CEEH-EA"}
CAUTION = """\
Training for short chains of thought makes them less monitorable: the strongest length targets kept 63-69 % of
the baseline's faithfulness in [arXiv 2607.09786](https://arxiv.org/abs/2607.09786). Do not rely on the
reasoning text of this model as an account of how it came to its answer."""
CITATION = """\
```bibtex
@misc{ceeh2026,
  title = {Compress the Easy, Explore the Hard:
           Difficulty-Aware Entropy Regularization for Efficient {LLM} Reasoning},
  author = {Luo and Ren and Chen and Liu and Fang and Tan and Huang},
  year = {2026},
  eprint = {2602.22642},
  archivePrefix = {arXiv},
  note = {KDD 2026}
}
```"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What a card is written about.

    `repo` is how the folder will be named when it is loaded: a hub id, or the folder itself. `summary`
    is the run's summary.json if it is of these weights, those after `rollout_step`; `mixture` is its
    mixture.json if it trained on one.
    """

    name: str
    repo: str
    config: Config
    rollout_step: int
    summary: Mapping[str, Any] | None
    mixture: Mapping[str, Any] | None
    adapter: bool
    dtype: str
    command: str


def write_card(folder: Path, export: Export) -> None:
    """Writes README.md, the settings it refers to and, where there are figures, their picture."""
    settings = public(yaml.safe_load(to_yaml(export.config)))
    (folder / SETTINGS).write_text(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    if export.summary is not None:
        write_pareto(folder / PICTURE, export.summary)
    sections = [
        f"# {export.name}\n\n{_description(export)}",
        f"## Figures\n\n{_figures(export)}",
        f"## A caution\n\n{CAUTION}",
        f"## Use\n\n{usage(export.config, export.repo, adapter=export.adapter)}",
        f"## Training\n\n{_training(export)}",
        f"## Made with\n\n{_versions(export)}",
        f"## Citation\n\nThe method is that of arXiv [2602.22642](https://arxiv.org/abs/2602.22642):"
        f"\n\n{CITATION}",
    ]
    content = f"---\n{_metadata(export).to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n"
    ModelCard(content).save(folder / "README.md")


def public(value: Any, key: str = "") -> Any:
    """`value` as it may be published: no secrets, of files of this machine the name alone."""
    if isinstance(value, Mapping):
        return {name: public(item, str(name)) for name, item in redact(value).items()}
    if isinstance(value, list):
        return [public(item, key) for item in value]
    if isinstance(value, str) and key.endswith(("path", "output")) and value.startswith(("/", "~")):
        return PurePath(value).name
    return value


def hub_id(path: str) -> str | None:
    """`path` if it can be an id on the hub and is no folder here."""
    if path == "starter" or Path(path).exists():
        return None
    try:
        validate_repo_id(path)
    except HFValidationError:
        return None
    return path


def license(base: str) -> dict[str, str]:
    """The license that the base's own card states, if that card is at hand; never asks the hub."""
    if base == "starter":
        return {"license": "apache-2.0"}
    card = Path(base).expanduser() / "README.md"
    if not card.is_file():
        cached = try_to_load_from_cache(base, "README.md") if hub_id(base) else None
        if not isinstance(cached, str):
            return {}
        card = Path(cached)
    stated = ModelCard.load(card, ignore_metadata_errors=True).data.to_dict()
    names = ("license", "license_name", "license_link")
    return {name: stated[name] for name in names if isinstance(stated.get(name), str)}


def method(config: Config) -> str:
    """The paper's name where the settings are its, else what the rewards and the entropy term are."""
    shaping = config.objective.shaping.class_path.rpartition(".")[2]
    entropy = config.objective.entropy.method
    if shaping == "OptimalLengthPenalty" and entropy in METHODS:
        return METHODS[entropy]
    bonus = "no entropy bonus" if entropy == "none" else f"the entropy bonus '{entropy}'"
    return f"a comparison to CEEH ({shaping}, {bonus})"


def _metadata(export: Export) -> ModelCardData:
    lora = export.config.model.lora.rank > 0
    base = hub_id(export.config.model.path)
    more: dict[str, Any] = dict(license(export.config.model.path))
    if base:
        more["base_model_relation"] = "adapter" if export.adapter else "finetune"
    return ModelCardData(
        base_model=base,
        library_name="peft" if export.adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["ceeh", "reasoning", "efficient-reasoning", *(["lora"] if lora else [])],
        **more,
    )


def _base(config: Config) -> str:
    if config.model.path == "starter":
        return "the starter model that ships with ceeh"
    if found := hub_id(config.model.path):
        return f"[{found}](https://huggingface.co/{found})"
    return f"`{PurePath(config.model.path).name}` (a local folder)"


def _description(export: Export) -> str:
    lora = export.config.model.lora
    how = f"a LoRA of rank {lora.rank}" if lora.rank else "all weights"
    what = "The adapter alone" if export.adapter else "The whole model"
    base = _base(export.config)
    return (
        f"{base[0].upper()}{base[1:]}, trained with reinforcement "
        f"learning to reason briefly without getting worse: {method(export.config)}, {how}, "
        f"{export.rollout_step} rollout steps. {what} is in this folder, in {export.dtype}."
    )


def _figures(export: Export) -> str:
    summary, rollouts = export.summary, export.config.rollouts
    if summary is None:
        return (
            f"These weights, after rollout step {export.rollout_step} of {rollouts.steps}, were not "
            "measured on held-out questions."
        )
    grid = summary_grid(summary)
    return "\n".join(
        [
            f"{grid.title}. Sampled at temperature {rollouts.temperature:g} with at most "
            f"{rollouts.max_response_tokens} tokens; easy and hard are told apart by other samples of "
            "the base. Changes are paired by question.\n",
            grid.markdown(),
            f"\n![Accuracy against tokens of base and tuned, with 95 % intervals]({PICTURE})",
        ]
    )


def _component(component: Component) -> str:
    settings = public({"class_path": component.class_path, **component.init_args})
    arguments = ", ".join(f"{k}: {v}" for k, v in settings.items() if k != "class_path")
    return f"`{settings['class_path']}`" + (f" ({arguments})" if arguments else "")


def _questions(export: Export) -> str:
    """The source, and of a mixture what it drew and left out."""
    mixture = export.mixture
    if mixture is None:
        return _component(export.config.prompts.train)
    parts = []
    for part in mixture["parts"]:
        contaminated = sum(part["contaminated"].values())
        source = Component(part["source"]["class_path"], part["source"].get("init_args", {}))
        parts.append(
            f"{part['name']}: {part['drawn']} of {part['read']}, {_component(source)}, without "
            f"{part['duplicates']} duplicates and {contaminated} that repeat a benchmark's"
        )
    against = ", ".join(mixture["benchmarks"])
    compared = (
        f"compared with {against} by {mixture['ngram']}-grams over {mixture['coverage']:.0%} of a question"
        if against
        else "not compared with any benchmark"
    )
    return f"{'; '.join(parts)}; {compared}"


def _training(export: Export) -> str:
    config = export.config
    rollouts, objective, optimizer = config.rollouts, config.objective, config.optimizer
    entropy, lora = objective.entropy, config.model.lora
    rounds = rollouts.dynamic_sampling.max_rounds
    rows = {
        "base": _base(config),
        "method": method(config),
        "training questions": _questions(export),
        "held-out questions": _component(config.prompts.held_out),
        "verifier": _component(config.verifier),
        "rollouts": f"{export.rollout_step} steps of {rollouts.prompts_per_step} questions x "
        f"{rollouts.completions_per_prompt} responses"
        + (f" (dynamic sampling of up to {rounds} rounds)" if rounds > 1 else "")
        + f"; temperature {rollouts.temperature:g}, at most {rollouts.max_response_tokens} tokens",
        "reward shaping": _component(objective.shaping),
        "entropy bonus": f"{entropy.method}, coefficient {entropy.coefficient:g}, "
        f"{entropy.hard_factor:g} times that on hard questions, anneal {entropy.anneal}",
        "advantage": f"{objective.advantage}, tokens weighted by {objective.aggregation}",
        "clipping": f"{objective.clip_low:g} below, {objective.clip_high:g} above, dual "
        f"{objective.dual_clip}",
        "KL coefficient": f"{objective.kl_coefficient:g}",
        "adaptation": f"LoRA, rank {lora.rank}, alpha {lora.alpha:g}" if lora.rank else "full",
        "optimizer": f"AdamW, learning rate {optimizer.lr:g}, {optimizer.schedule}, "
        f"{optimizer.prompts_per_minibatch} questions a step",
        "seed": str(config.seed),
    }
    if entropy.method == "none":
        rows["entropy bonus"] = "none"
    table = "\n".join(f"| {name} | {_cell(text)} |" for name, text in rows.items())
    return (
        f"| | |\n|---|---|\n{table}\n\nAll settings are in [{SETTINGS}]({SETTINGS}); the run again:\n\n"
        f"```bash\npython -m ceeh.fit --config {SETTINGS}\n```"
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _versions(export: Export) -> str:
    found = {name.removeprefix("version."): value for name, value in provenance().items()}
    commit = found.pop("git.commit", None)
    lines = [f"`{export.command}`", "", ", ".join(f"{n} {v}" for n, v in found.items())]
    if commit:
        lines[-1] += f"; commit `{commit}` of the working folder"
    return "\n".join(lines)


TRANSFORMERS = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{repo}")
model = AutoModelForCausalLM.from_pretrained("{repo}", dtype="auto")"""
PEFT = """\
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{repo}")
model = AutoPeftModelForCausalLM.from_pretrained("{repo}", dtype="auto")"""
GENERATE = """\
question = "..."
prompt = {prompt}
inputs = tokenizer(prompt, add_special_tokens={special}, return_tensors="pt", return_token_type_ids=False)
output = model.generate(
    **inputs, max_new_tokens={tokens}, do_sample=True, temperature={temperature:g}, top_p=1.0, top_k=0
)
print(tokenizer.decode(output[0, inputs.input_ids.shape[1] :], skip_special_tokens=True))"""
VLLM = """\
from vllm import LLM, SamplingParams

llm = LLM("{repo}")
sampling = SamplingParams(temperature={temperature:g}, max_tokens={tokens})
token_ids = inputs.input_ids[0].tolist()
print(llm.generate([{{"prompt_token_ids": token_ids}}], sampling)[0].outputs[0].text)"""
VLLM_LORA = """\
from peft import PeftConfig
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest

base = PeftConfig.from_pretrained("{repo}").base_model_name_or_path
llm = LLM(base, enable_lora=True, max_lora_rank={rank})
sampling = SamplingParams(temperature={temperature:g}, max_tokens={tokens})
token_ids = inputs.input_ids[0].tolist()
lora = LoRARequest("ceeh", 1, "{repo}")
print(llm.generate([{{"prompt_token_ids": token_ids}}], sampling, lora_request=lora)[0].outputs[0].text)"""


def usage(config: Config, repo: str, *, adapter: bool) -> str:
    """Markdown: how questions were put and answers sampled, in transformers and in vLLM.

    `repo` is what `from_pretrained` is given: a hub id, or the folder.
    """
    values = {
        "repo": repo,
        "prompt": _prompt(config.prompts),
        "special": not config.prompts.chat_template,
        "tokens": config.rollouts.max_response_tokens,
        "temperature": config.rollouts.temperature,
        "rank": config.model.lora.rank,
    }
    load, vllm = (PEFT, VLLM_LORA) if adapter else (TRANSFORMERS, VLLM)
    says = "" if adapter else " `generation_config.json` says the same."
    return (
        f"Trained and measured with questions in the form below, sampled at temperature "
        f"{config.rollouts.temperature:g} without top-p or top-k.{says}\n\n"
        f"```python\n{load}\n{GENERATE}\n```\n\nor with vLLM:\n\n```python\n{vllm}\n```"
    ).format(**values)


def _prompt(prompts: Prompts) -> str:
    """The Python expression that makes of `question` what the model was given."""
    text = "question"
    if prompts.instruction is not None:
        text = f"question.rstrip() + {chr(10) * 2 + prompts.instruction!r}"
    if not prompts.chat_template:
        return text
    system = f'{{"role": "system", "content": {prompts.system_prompt!r}}}, '
    messages = f'[{system if prompts.system_prompt else ""}{{"role": "user", "content": {text}}}]'
    return f"tokenizer.apply_chat_template({messages}, tokenize=False, add_generation_prompt=True)"
