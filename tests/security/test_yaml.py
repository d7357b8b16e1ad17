"""An untrusted configuration file: no tags, no bombs, no access to the environment."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from ceeh import fit
from ceeh.config.settings import load
from ceeh.errors import ConfigError
from ceeh.pretrained.locate import open_trained
from tests.commands import assert_refused, said
from tests.conftest import FinishedRun
from tests.test_fit import SHIPPED

# Nine lines that expand to a billion values: hours, and all of the memory.
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{one}: &{one} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, one in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("seed: !!python/object/apply:os.mkdir ['{there}']", "is not valid YAML ... python/object"),
        ("seed: !!python/name:os.mkdir", "is not valid YAML ... python/name"),
        ("seed: !!python/object/new:pathlib.Path ['x']", "is not valid YAML"),
        ("name: !mine x", "is not valid YAML ... !mine"),
        (BOMB, "is not valid YAML ... make more than 100000 values"),
        ("a: &a [*a]", "is not valid YAML ... within its own anchor"),
        ("seed: " + "[" * 5000, "is not valid YAML"),
        ("seed: " + "9" * 5000, "is not valid YAML"),
        ("#" * 2**20 + "\nseed: 1", "is bigger than 1048576 bytes"),
        (
            "name: ${oc.env:CEEH_CANARY}",
            'name: ${oc.env:CEEH_CANARY} is refused ... ="$CEEH_CANARY"',
        ),
        ("model: {path: '${oc.env:CEEH_CANARY,x}'}", "model.path: ${oc.env:CEEH_CANARY}"),
        ("verifier: {init_args: {a: ['${oc.env:CEEH_CANARY}']}}", "is refused"),
        ("output: oc.env\nname: '${${output}:CEEH_CANARY}'", "is refused"),
        ("name: '${oc.decode:\"${oc.env:CEEH_CANARY}\"}'", "is refused"),
        ("name: ${nothing}", "name: the interpolation cannot be resolved; ... got '${nothing}'"),
        ("name: ${name}", "name"),
    ],
    ids=lambda value: value[:24].replace("\n", " ") if isinstance(value, str) else "",
)
def test_a_hostile_file_is_refused_at_once(
    text: str, parts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CEEH_CANARY", "xyzzy")
    there = tmp_path / "there"
    file = tmp_path / "hostile.yaml"
    file.write_text(text.replace("{there}", str(there)))
    answer = said(fit.main, ["--config", str(SHIPPED), "--config", str(file), "--print-config"])
    assert_refused(answer, parts)
    assert "xyzzy" not in answer.err
    assert not there.exists()


def test_other_users_of_omegaconf_can_read_the_environment_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CEEH_CANARY", "xyzzy")
    with pytest.raises(ConfigError):
        load([SHIPPED], ["name=${oc.env:CEEH_CANARY}"])
    assert OmegaConf.create({"a": "${oc.env:CEEH_CANARY}"}).a == "xyzzy"


def test_other_interpolations_work() -> None:
    config = load([SHIPPED], ["optimizer.prompts_per_minibatch=${rollouts.prompts_per_step}"])
    assert config.optimizer.prompts_per_minibatch == config.rollouts.prompts_per_step


def test_the_configuration_of_an_untrusted_run_cannot_read_the_environment(
    full_run: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CEEH_CANARY", "xyzzy")
    run = full_run.copy(tmp_path)
    config = run / "config.yaml"
    config.write_text(
        config.read_text().replace("experiment: ceeh", "experiment: ${oc.env:CEEH_CANARY}")
    )
    with pytest.raises(ConfigError, match=r"tracking\.experiment: .*is refused"):
        open_trained(str(run))
