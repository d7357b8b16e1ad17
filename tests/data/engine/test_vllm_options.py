"""The options of vLLM: defaults, what a user may change, and what is refused with its cure."""

import pytest
from pydantic import BaseModel, ValidationError, field_validator

from ceeh.data.engine.vllm_options import check_options, default_options, merge_options, refusal
from ceeh.errors import ConfigError


def test_a_cuda_engine_has_a_float32_head_unless_the_user_says_otherwise():
    defaults = default_options(cpu=False)
    assert merge_options(defaults, {})["hf_overrides"] == {"head_dtype": "float32"}
    theirs = merge_options(defaults, {"hf_overrides": {"rope_theta": 5.0}, "enforce_eager": True})
    assert theirs["hf_overrides"] == {"head_dtype": "float32", "rope_theta": 5.0}
    assert theirs["enforce_eager"] is True
    plain = merge_options(defaults, {"hf_overrides": {"head_dtype": "model"}})
    assert plain["hf_overrides"] == {"head_dtype": "model"}
    assert "hf_overrides" not in default_options(cpu=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"logprobs_mode": "raw_logprobs"},
            r"options\.logprobs_mode cannot be set here: the log-p",
        ),
        ({"max_model_len": 10}, r"options\.max_model_len.*it is max_prompt_tokens"),
        (
            {"tensor_parallel_size": 2},
            r"options\.tensor_parallel_size cannot be set here: set engine\.init_args\.tensor_parallel$",
        ),
    ],
)
def test_options_that_would_break_training_are_refused_with_the_place_to_set_them(options, message):
    with pytest.raises(ConfigError, match=message):
        check_options(options)
    check_options({"max_num_seqs": 1})


def test_a_refusal_of_vllm_is_one_line():
    class Settings(BaseModel):
        size: int

        @field_validator("size")
        @classmethod
        def small(cls, value: int) -> int:
            raise ValueError("chunked prefill is required")

    with pytest.raises(ValidationError) as raised:
        Settings(size=7)
    assert refusal(raised.value) == "Value error, chunked prefill is required"
    assert refusal(ValueError("no such architecture\nmore")) == "no such architecture"
