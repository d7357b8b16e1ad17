"""The questions of a run as MLflow names its inputs: name, digest, source and number."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

from ceeh.config.component import Component
from ceeh.data.prompts import digests
from ceeh.runtime.text import redact
from ceeh.types import Prompt

MAX_NAME, MAX_DIGEST, MAX_SOURCE = 500, 36, 65_535
"""Characters that MLflow stores."""


def data_set(
    use: Literal["training", "evaluation"],
    source: Component,
    prompts: Sequence[Prompt],
    name: str = "",
) -> dict[str, Any]:
    """The entry of `GuardedMLFlowLogger.log_data_sets` for the `prompts` that `source` gave.

    `name` is by default the path of `source`, or its class. The digest is that of the questions, whatever
    their order, as a checkpoint keeps it.
    """
    settings: Mapping[str, Any] = redact(asdict(source))
    path = settings["init_args"].get("path") or source.class_path.rpartition(".")[2]
    facts = {
        "name": (name or str(path))[:MAX_NAME],
        "digest": digests(prompts)["digest"][:MAX_DIGEST],
        "source_type": "ceeh",
        "source": json.dumps(settings)[:MAX_SOURCE],
        "profile": json.dumps({"num_rows": len(prompts)}),
    }
    return {"use": use, "facts": facts}
