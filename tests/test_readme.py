"""The README's commands and code, as a reader would run them."""

import json
import re
from pathlib import Path

import pytest
import yaml

from ceeh.config import load
from ceeh.fit import main
from ceeh.types import GroupOutcome

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def block(kind: str, holding: str) -> str:
    (found,) = (text for language, text in BLOCKS if language == kind and holding in text)
    return found


def commands() -> list[str]:
    """Lines of the shell blocks, continuations joined."""
    shell = "".join(text for language, text in BLOCKS if language == "bash")
    joined = shell.replace("\\\n", " ")
    return [
        line.split("#")[0].strip() for line in joined.splitlines() if line.split("#")[0].strip()
    ]


def test_the_two_commands_are_there_and_the_makefile_knows_every_target() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    made = [command.split()[1] for command in commands() if command.startswith("make ")]
    assert {"fit", "test"} <= set(made) <= targets


def test_every_configuration_file_and_key_of_the_commands_exists() -> None:
    fits = [command for command in commands() if "-m ceeh.fit" in command]
    assert len(fits) >= 3
    for command in fits:
        words = command.split()[command.split().index("ceeh.fit") + 1 :]
        files = [words[i + 1] for i, word in enumerate(words) if word == "--config"]
        named = [word for word in words if "=" in word]
        shipped = [ROOT / file for file in files if (ROOT / file).is_file()]
        assert shipped, command
        load(shipped, named)


def test_the_signal_of_the_readme_does_what_it_says(tmp_path: Path) -> None:
    source = tmp_path / "often_truncated.py"
    source.write_text(block("python", "class OftenTruncated"))
    namespace: dict = {}
    exec(compile(source.read_text(), source, "exec"), namespace)
    signal = namespace["OftenTruncated"]()
    assert signal.read("a") == {"often_truncated": 0.0}
    cut = GroupOutcome(uid="a", correct=(False, True), lengths=(9, 3), finished=(False, False))
    signal.observe(cut)
    assert signal.read("a") == {"often_truncated": 1.0}


@pytest.mark.engine
def test_a_users_signal_from_his_own_file_steers_a_run_with_the_real_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "often_truncated.py").write_text(block("python", "class OftenTruncated"))
    overlay = block("yaml", "often_truncated.py:OftenTruncated")
    assert yaml.safe_load(overlay)["objective"]["hard_signal"] == "often_truncated"
    (tmp_path / "often_truncated.yaml").write_text(overlay)
    monkeypatch.chdir(tmp_path)
    given = ["--config", str(ROOT / "configs/ceeh.yaml"), "--config", "often_truncated.yaml"]
    small = [
        "rollouts.steps=5",
        "rollouts.prompts_per_step=8",
        "rollouts.completions_per_prompt=4",
        "rollouts.max_response_tokens=40",
        "evaluation.questions=8",
        "tracking.mlflow=false",
    ]
    assert main([*given, *small]) == 0
    lines = (tmp_path / "runs/latest/metrics.jsonl").read_text().splitlines()
    steps = [row for row in map(json.loads, lines) if "loss/policy" in row]
    assert len(steps) == 5
    # Cut at 40 tokens, most questions' groups run into the limit once they are seen again; until
    # then nothing is known of them and nothing is hard.
    assert steps[0]["loss/entropy_easy"] > 0
    assert steps[0]["loss/entropy_hard"] is None
