"""generation_config.json of a trained model: it stops where its base stops, and samples as it was trained."""

from typing import Any

from transformers import GenerationConfig, PreTrainedTokenizerBase


def generation_settings(
    base: GenerationConfig, tokenizer: PreTrainedTokenizerBase, *, temperature: float
) -> GenerationConfig:
    """The end tokens of `base` and of the tokenizer, at both of which rollouts end; a padding token; and
    sampling at `temperature` from all tokens.

    Nothing else of `base` is kept: its top-p, penalties, beams or length limit would give responses that
    were neither trained nor measured. The training's own length limit is not stated: vLLM's server would cut
    every request at it, and transformers would prefer it to a caller's `max_length`. Greedy decoding, where
    transformers would start without this file,
    makes chains of thought repeat themselves (DeepSeek-R1, https://arxiv.org/abs/2501.12948).
    """
    stated: Any = base.eos_token_id
    ends = [] if stated is None else list(stated) if isinstance(stated, list) else [stated]
    if tokenizer.eos_token_id not in ends:
        ends.append(tokenizer.eos_token_id)
    padding = (base.pad_token_id, tokenizer.pad_token_id, ends[0])
    return GenerationConfig(
        bos_token_id=base.bos_token_id,
        eos_token_id=ends if len(ends) > 1 else ends[0],
        pad_token_id=next(token for token in padding if token is not None),
        do_sample=True,
        temperature=temperature,
        top_p=1.0,
        top_k=0,
    )
