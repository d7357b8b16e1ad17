"""Any text or tree given as a configuration is a valid Config that reads back the same, or a ConfigError."""

import json
import string
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ceeh.config.component import Component
from ceeh.config.reference import entries
from ceeh.config.settings import Config, load
from ceeh.config.writing import to_yaml
from ceeh.errors import ConfigError

QUICK = settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


KEYS = [entry.path for entry in entries(Config)]
TEXTS = st.one_of(
    st.text(max_size=20),
    st.text(alphabet="${}[]:,'\"\\&*!#%@`|>-?.~ \n\tabc", max_size=12),
    st.sampled_from(
        ["${name}", "\\${x}", "???", "null", "~", "1_000", "0x10", "1e3", ".nan", "<<", "=", "on"]
    ),
)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=8,
)
PLACES = st.one_of(
    st.sampled_from(KEYS),
    st.sampled_from(
        ["callbacks.a.init_args.x", "engine.init_args.options", "verifier.init_args", "verifier"]
    ),
    st.text(alphabet=string.ascii_lowercase + "._[]+~ ", max_size=10),
)


def config_or_error(files: list[Path], overrides: list[str], place: Path) -> Config | None:
    """The configuration, which must read back to the same; None where it is refused."""
    try:
        config = load(files, overrides)
    except ConfigError:
        return None
    place.write_text(to_yaml(config), encoding="utf-8")
    assert load([place]) == config
    return config


@QUICK
@given(place=PLACES, value=TREES)
def test_any_value_at_any_key_of_a_file(place: str, value: object, tmp_path: Path) -> None:
    for key in reversed(place.split(".")):
        value = {key: value}
    file = tmp_path / "file.yaml"
    file.write_text(json.dumps(value), encoding="utf-8")  # JSON is YAML, all but NaN
    config_or_error([file], [], tmp_path / "again.yaml")


@QUICK
@given(place=PLACES, value=TEXTS)
def test_any_override(place: str, value: str, tmp_path: Path) -> None:
    config_or_error([], [f"{place}={value}"], tmp_path / "again.yaml")


@QUICK
@given(content=st.one_of(st.binary(max_size=40), TEXTS.map(lambda t: t.encode("utf-8", "replace"))))
def test_any_bytes_as_a_file(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "file.yaml"
    file.write_bytes(content)
    config_or_error([file], [], tmp_path / "again.yaml")


@QUICK
@given(
    text=st.text(max_size=30),
    inner=st.dictionaries(st.sampled_from("abc"), TEXTS | st.lists(TEXTS), max_size=3),
)
def test_any_text_in_an_argument_reads_back_to_the_same(
    text: str, inner: dict, tmp_path: Path
) -> None:
    """Also text with `${` or backslashes, which a file must escape."""
    if "???" in (text, *inner.values()) or any(
        "???" in v for v in inner.values() if isinstance(v, list)
    ):
        return  # OmegaConf's mark of a missing value
    config = Config(callbacks={"a": Component("x.Y", {"text": text, "inner": inner})})
    file = tmp_path / "file.yaml"
    file.write_text(to_yaml(config), encoding="utf-8", errors="surrogatepass")
    assert load([file]) == config
