"""TRL's fused head, forward and backward, one per request. Runs in `.venv-trl`.

Through its public function, on a model without layers: what is measured besides is one normalization.
"""

from contextlib import nullcontext
from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from trl.trainer import add_fused_lm_head  # type: ignore[import-not-found]  # in .venv-trl

from benchmarks.memory import Stopwatch
from benchmarks.worker import Requests


def headed_model(job: dict[str, Any], device: str) -> Any:
    """Embedding, final norm and head alone."""
    config = Qwen2Config(
        vocab_size=job["vocabulary"],
        hidden_size=job["width"],
        num_hidden_layers=0,
        num_attention_heads=1,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    )
    with torch.device(device):
        model: Any = Qwen2ForCausalLM(config)
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    return model


def main() -> None:
    requests, watch = Requests(), Stopwatch()
    job = requests.job
    torch.set_num_threads(job["threads"])
    gpu = torch.cuda.is_available()
    device = "cuda" if gpu else "cpu"
    torch.manual_seed(0)
    model = headed_model(job, device)
    shape = (1, job["tokens"] + 1)  # the first token is not predicted
    hidden = torch.randn(*shape, job["width"], device=device, requires_grad=True)
    labels = torch.randint(job["vocabulary"], shape, device=device)
    while True:
        requests.wait()
        hidden.grad = None
        model.zero_grad()
        watch.start()
        with torch.autocast(device, torch.bfloat16) if gpu else nullcontext():
            out = model(inputs_embeds=hidden, labels=labels, fused_lm_head=True)
        (out.log_probs.sum() + 0.01 * out.entropy.sum()).backward()
        requests.answer(**watch.stop())


if __name__ == "__main__":
    main()
