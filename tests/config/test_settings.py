"""Configuration: files and overrides merge in order; every mistake names place, rule, value and cure."""

import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from ceeh.config.reference import entries
from ceeh.config.settings import Config, load
from ceeh.config.typed import plain
from ceeh.config.writing import to_yaml
from ceeh.errors import ConfigError
from ceeh.runtime.text import flatten

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "configs" / "ceeh.yaml"
OVERLAYS = [
    path
    for path in SHIPPED.parent.rglob("*.yaml")
    if path != SHIPPED
    and path.parent.name not in ("benchmarks", "data", "starter", "studies")
    and "sft" not in path.stem
]


def written(folder: Path, text: str) -> Path:
    path = folder / "overlay.yaml"
    path.write_text(text)
    return path


def test_later_files_and_then_overrides_win(tmp_path: Path) -> None:
    overlay = written(tmp_path, "optimizer: {lr: 0.5}\nseed: 3\n")
    config = load([SHIPPED, overlay], ["seed=4"])
    assert (config.optimizer.lr, config.seed, config.rollouts.steps) == (0.5, 4, 100)


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda p: p.stem)
def test_every_shipped_overlay_fits_on_the_shipped_configuration(overlay: Path) -> None:
    # An overlay that says what is trained names the run; hardware goes with any.
    named = "starter" if overlay.parent.name == "hardware" else overlay.stem
    assert load([SHIPPED, overlay]).name == named


def test_the_shipped_configuration_sets_only_what_differs_from_the_defaults() -> None:
    def leaves(values: object) -> dict:
        container = OmegaConf.to_container(OmegaConf.create(values))  # type: ignore[call-overload]
        return flatten(container)  # type: ignore[arg-type]

    defaults = leaves(plain(Config))
    repeated = [
        key for key, value in leaves(OmegaConf.load(SHIPPED)).items() if defaults.get(key) == value
    ]
    assert repeated == []


def test_another_class_does_not_inherit_arguments(tmp_path: Path) -> None:
    other = ["verifier.class_path=mine.py:Other", "verifier.init_args.a=1"]
    assert load([SHIPPED], other).verifier.init_args == {"a": 1}
    same = ["verifier.class_path=ceeh.data.verify.ExactAnswer"]
    assert "pattern" in load([SHIPPED], same).verifier.init_args
    overlay = written(tmp_path, "verifier: {class_path: mine.py:Other}")
    assert load([SHIPPED, overlay]).verifier.init_args == {}


def test_printed_configuration_reads_back_to_the_same_and_is_frozen(tmp_path: Path) -> None:
    config = load([SHIPPED])
    assert load([written(tmp_path, to_yaml(config))]) == config
    with pytest.raises(AttributeError):
        config.seed = 1  # type: ignore[misc]


def test_callbacks_can_be_added_and_changed_from_the_command_line() -> None:
    given = ["callbacks.mine.class_path=a.py:B", "callbacks.difficulty.init_args.rise=0.5"]
    config = load([SHIPPED], given)
    assert config.callbacks["mine"].class_path == "a.py:B"
    assert config.callbacks["difficulty"].init_args == {"rise": 0.5, "fall": 0.05}


def test_an_overlay_removes_a_callback_or_all_of_them(tmp_path: Path) -> None:
    overlay = written(tmp_path, "callbacks: {optimal_length: null}")
    assert list(load([SHIPPED, overlay]).callbacks) == ["difficulty"]
    assert load([SHIPPED], ["callbacks={}"]).callbacks == {}
    assert list(load([SHIPPED], ["callbacks={}", "callbacks.a.class_path=b.C"]).callbacks) == ["a"]
    assert load([SHIPPED], ["verifier.init_args={}"]).verifier.init_args == {}
    assert load([SHIPPED], ["optimizer={}"]).optimizer == load([SHIPPED]).optimizer


def test_yaml_is_read_by_its_version_1_2(tmp_path: Path) -> None:
    file = written(
        tmp_path, "name: no\noptimizer: {lr: 1e-5}\nengine: {init_args: {a: 12:30, b: 010}}"
    )
    config = load([SHIPPED, file])
    assert (config.name, config.optimizer.lr) == ("no", 1e-5)
    assert config.engine.init_args == {"a": "12:30", "b": "010"}
    assert load([SHIPPED], ["name=2024_11_26"]).name == "2024_11_26"
    assert load([SHIPPED], ["name=010"]).name == "010"
    assert load([SHIPPED], ["name=7"]).name == "7"


def test_extra_keys_may_hold_anchors_and_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    file = written(tmp_path, "x-rates: &rates {lr: 0.5}\noptimizer: {<<: *rates, beta1: 0.8}")
    optimizer = load([SHIPPED, file]).optimizer
    assert (optimizer.lr, optimizer.beta1) == (0.5, 0.8)
    assert load([SHIPPED, Path("/dev/null")]) == load([SHIPPED])


def test_an_argument_called_class_path_can_be_overridden() -> None:
    given = [
        "verifier.class_path=ceeh.data.verify.RewardFunction",
        "verifier.init_args.class_path=a.py:f",
        "verifier.init_args.class_path=b.py:g",
    ]
    assert load([], given).verifier.init_args == {"class_path": "b.py:g"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("objective.clip_lo=0.1", "clip_low"),
        ("objective.clip_low=3.0", r"objective.clip_low must be in \(0, 1\], got 3.0"),
        ("objective.dual_clip=1", r"objective.dual_clip must be greater than 1, or null, got 1.0"),
        ("optimizer.lr=.nan", "optimizer.lr must be a finite number, below 3e.38 in size, got nan"),
        ("optimizer.weight_decay=1e300", "weight_decay must be a finite number"),
        ("optimizer.lr=2", "optimizer.lr must be greater than 0 and at most 1, got 2.0"),
        ("optimizer.lr=quick", "optimizer.lr must be a number, greater than 0 .*, got 'quick'"),
        ("optimizer.lr='0.1'", "optimizer.lr must be a number, .* got '0.1'"),
        ("optimizer.lr=???", r"optimizer.lr must be a number, .* got '\?\?\?'"),
        ("rollouts.steps=010", "steps must be a whole number, .* got '010'; write 10"),
        ("rollouts.steps=1_000", "got '1_000'; write 1000"),
        (
            "evaluation.questions=1e9",
            "must be a whole number, .* got 1000000000.0; write 1000000000",
        ),
        ("seed=4294967296", "seed must be from 0 to 4294967295, got 4294967296"),
        ("seed=9999999999999999999999", "seed must be a whole number, .*; it must fit 64 bits"),
        ("seed=true", "seed must be a whole number, .* got true"),
        ("name=1.50", "name must be letters, .* got 1.5; put it in quotes if it is text"),
        ("model.trust_remote_code=no", "trust_remote_code must be true or false, got 'no'"),
        ("model.lora.target_modules=[q,null]", r"target_modules\[1\] must be text, got null"),
        ("optimizer=null", "optimizer must be a mapping of lr, .* got null"),
        (
            "prompts.train=null",
            "prompts.train must be a mapping of class_path, init_args, got null",
        ),
        (
            "callbacks.x=null",
            "callbacks.x: null removes an entry, but 'x' is not there; there: diff",
        ),
        ("rollouts.top_p=0.9", "rollouts.top_p must be 1.0: .* temperature only, got 0.9"),
        ("hardware.precision=bf16-true", "hardware.precision must be auto, 32-true or bf16-mixed"),
        ("hardware.precision=16-true", "rounds small weight updates away"),
        (
            "objective.entropy.method=max",
            "^objective.entropy.method must be one of me, hard_only, .*, none, got 'max'",
        ),
        ("rollouts.completions_per_prompt=1", "completions_per_prompt must be at least 2, got 1"),
        ("prompts.instruction=' '", "instruction must be non-empty text, or null, got ' '"),
        ("name=../x", "name must be letters"),
        ("output='a\tb'", "output must be non-empty text without control characters"),
        ("+a=1", "is not an override; write key=value"),
        ("a.b[0]=3", "is not an override; write key=value"),
        ("seed", "is not an override; write key=value"),
        ("optimizer.prompts_per_minibatch=0", "must be greater than 0, got 0"),
    ],
)
def test_a_wrong_override_is_named_with_its_rule(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load([SHIPPED], [override])


def test_all_broken_rules_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        load([SHIPPED], ["objective.clip_low=3.0", "optimizer.lr=-1"])
    assert len(str(error.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "optimizer: {lrr: 1}",
            r"overlay.yaml: optimizer.lrr is not a setting; did you mean optimizer.lr\?",
        ),
        (
            "objective: {entropy: {anneal: x}}",
            "overlay.yaml: objective.entropy.anneal must be one of cosine, linear, none, got 'x'",
        ),
        ("optimizer: [", "is not valid YAML"),
        ("optimizer: 3", "overlay.yaml: optimizer must be a mapping"),
        ("- 1", "overlay.yaml must hold a mapping of keys, got a list"),
        ("seed: !!python/object/apply:os.getcwd []", "is not valid YAML"),
    ],
)
def test_a_wrong_file_is_named_with_the_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load([SHIPPED, written(tmp_path, text)])


def test_every_setting_is_read_by_something() -> None:
    config = ROOT / "ceeh" / "config"
    declared = [config / f"{name}.py" for name in ("settings", "objective", "rollouts")]
    files = {*(ROOT / "ceeh").rglob("*.py")} - {*declared, config / "consistency.py"}
    source = "".join(file.read_text() for file in files)
    names = {entry.path.rpartition(".")[2] for entry in entries(Config)}
    assert {name for name in names if not re.search(rf"\.{name}\b", source)} == set()


def test_a_tilde_in_a_path_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    given = ["output=~/runs", "ckpt_path=~/a.ckpt", "tracking.mlflow_uri=sqlite:///~/mlflow.db"]
    config = load([SHIPPED], [*given, "model={path: ~/model}", "prompts.instruction=~/no path"])
    paths = (config.output, config.ckpt_path, config.tracking.mlflow_uri, config.model.path)
    inside = ("/home/me/runs", "/home/me/a.ckpt", "sqlite:////home/me/mlflow.db", "/home/me/model")
    assert paths == inside
    assert config.prompts.instruction == "~/no path"
    for path in ("~no-such-user/runs", "runs~", "./~/runs"):
        assert load([SHIPPED], [f"output={path}"]).output == path
