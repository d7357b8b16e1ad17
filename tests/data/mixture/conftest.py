"""Parts of a mixture, made of numbered questions."""

import json

import pytest


@pytest.fixture
def numbered(tmp_path):
    """A part of `count` questions that share nothing, optionally in another order of rows."""

    def numbered(name, count, questions, *, backwards=False, word=None):
        lines = [
            json.dumps({"question": f"{word or name} {i}?", "answer": str(i)}) for i in range(count)
        ]
        path = tmp_path / f"{name}{'-backwards' * backwards}.jsonl"
        path.write_text("\n".join(lines[::-1] if backwards else lines))
        init_args = {"path": str(path)}
        return {"class_path": "ceeh.data.sources.Table", "init_args": init_args} | (
            {"questions": questions} if questions else {}
        )

    return numbered
