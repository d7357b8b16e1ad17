"""Files that run code if they are loaded unsafely; the code creates the file `victim`."""

import json
import pickle
from pathlib import Path


class Evil:
    """Unpickling it creates a file."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self):
        return Path.touch, (self.victim,)


def pickled(victim: Path) -> bytes:
    return pickle.dumps(Evil(victim))


def with_own_code(model: Path, victim: Path, *, part: str) -> None:
    """Makes the config or tokenizer of a model folder bring Python code."""
    (model / "payload.py").write_text(
        "from pathlib import Path\n"
        f"Path({str(victim)!r}).touch()\n"
        "from transformers import Qwen3Config, PreTrainedTokenizerFast\n"
        "class Config(Qwen3Config):\n    model_type = 'payload'\n"
        "class Tokenizer(PreTrainedTokenizerFast):\n    pass\n"
    )
    if part == "config":
        change(
            model / "config.json", model_type="payload", auto_map={"AutoConfig": "payload.Config"}
        )
    else:
        auto_map = {"AutoTokenizer": [None, "payload.Tokenizer"]}
        change(model / "tokenizer_config.json", auto_map=auto_map, tokenizer_class="Tokenizer")


def change(file: Path, **values: object) -> None:
    """Sets keys of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
