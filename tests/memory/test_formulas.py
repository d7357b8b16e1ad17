"""The formulae at literal numbers."""

import dataclasses

import pytest

from ceeh.memory import formulas
from ceeh.memory.shapes import PROJECTIONS, ModelShapes

# 2 layers, D 8, 2 heads of 4 (A 8) on 1 key head (K 4), I 16, V 100.
# A layer's matrices: q 64 + k 32 + v 32 + o 64 + 3 x 128 = 576 elements.
FULL = ModelShapes(
    parameters=3000,
    trainable=3000,
    largest_trainable=800,
    layers=2,
    width=8,
    vocabulary=100,
    tied=False,
    heads=2,
    kv_heads=1,
    head_size=4,
    projections={
        "q_proj": (8, 8),
        "k_proj": (8, 4),
        "v_proj": (8, 4),
        "o_proj": (8, 8),
        "gate_proj": (8, 16),
        "up_proj": (8, 16),
        "down_proj": (16, 8),
    },
    norms=2,
    head_norms=False,
    adapted=(),
    rank=0,
    dropout=False,
)
LORA = FULL.with_adapters(2)


def test_adapters_add_rank_times_inputs_and_outputs() -> None:
    # 2 (16 + 12 + 12 + 16 + 24 + 24 + 24) = 256 a layer.
    assert (LORA.trainable, LORA.parameters) == (512, 3512)
    assert LORA.adapted == PROJECTIONS
    assert LORA.largest_trainable == 2 * 16
    assert LORA.with_adapters(4) is LORA


def test_weights_and_optimizer() -> None:
    assert formulas.master_weights(LORA) == 4 * 3512
    assert formulas.gradients(LORA) == 4 * 512
    assert formulas.adamw_states(FULL) == 8 * 3000
    assert formulas.adamw_workspace(FULL, cuda=True) == 4 * 3000
    assert formulas.adamw_workspace(FULL, cuda=False) == 12 * 800


def test_a_reference_is_held_for_kl_without_lora_alone() -> None:
    assert formulas.reference_copy(FULL, kl_coefficient=0.001) == 4 * 3000
    assert formulas.reference_copy(FULL, kl_coefficient=0) == 0
    assert formulas.reference_copy(LORA, kl_coefficient=0.001) == 0


def test_gradients_are_held_twice_by_several_processes() -> None:
    assert formulas.ddp_buckets(FULL, processes=2) == 4 * 3000
    assert formulas.ddp_buckets(FULL, processes=1) == 0


def test_a_layer_keeps() -> None:
    # bf16, all trained, a token: norms 2 (32 + 32 + 4) = 136; attention 2 (16 + 8) + 8 = 56;
    # MLP 3 x 2 x 16 = 96; inputs of q, k, v, gate, up 5 x 16 and of down 32 = 112. Casts 2 x 576.
    assert formulas.layer_kept(FULL, 10, compute=2) == 10 * (136 + 56 + 96 + 112) + 1152
    # fp32: norms 136; attention 4 x 24 + 8 = 104; MLP 192; inputs 32 (q, k, v), 32 (gate, up), 64.
    assert formulas.layer_kept(FULL, 10, compute=4) == 10 * (136 + 104 + 192 + 128)
    # LoRA in bf16: norms 2 (32 + 4) = 72, attention 56, MLP 96, inputs 6 x 16 + 32 = 128, and
    # 7 x 2 x 2 = 28 between the matrices.
    assert formulas.layer_kept(LORA, 10, compute=2) == 10 * (72 + 56 + 96 + 128 + 28) + 1152


def test_checkpointing_keeps_one_input_a_layer_and_computes_one_layer_again() -> None:
    kept = formulas.layer_kept(LORA, 10, compute=2)
    assert formulas.layers_kept(LORA, 10, compute=2, gradient_checkpointing=False) == 2 * kept
    assert formulas.layers_kept(LORA, 10, compute=2, gradient_checkpointing=True) == 2 * 10 * 32
    # LoRA in bf16 at work: (4 + 2) x 16 + 12 x 8 = 192 a token.
    at_work = formulas.backward_workspace(LORA, 10, compute=2, gradient_checkpointing=False)
    again = formulas.backward_workspace(LORA, 10, compute=2, gradient_checkpointing=True)
    assert (at_work, again - at_work) == (1920, kept - 320)


def test_a_tied_head_holds_its_gradient_to_the_end() -> None:
    tied = dataclasses.replace(FULL, tied=True)
    more = [
        formulas.backward_workspace(shapes, 10, compute=4, gradient_checkpointing=False)
        for shapes in (FULL, tied)
    ]
    assert more[1] - more[0] == 4 * 100 * 8


@pytest.mark.parametrize(("chunk_tokens", "held", "block"), [(4, 4, 1), (32, 32, 2), (64, 40, 3)])
def test_the_head_holds_one_chunk_of_logits(chunk_tokens: int, held: int, block: int) -> None:
    work = formulas.head_workspace(LORA, 40, chunk_tokens=chunk_tokens)
    assert work == 4 * (held + block) * 100 + 40 * 32


def test_a_trained_heads_gradient_is_kept() -> None:
    # Three 4 D + 4 a token and 4 V D, against two 4 D + 4 with LoRA.
    assert formulas.head_kept(FULL, 10) == 10 * (3 * 32 + 4) + 4 * 100 * 8
    assert formulas.head_kept(LORA, 10) == 10 * (2 * 32 + 4)


def test_a_rollout_batch_is_ids_mask_and_logprobs() -> None:
    assert formulas.rollout_batch(3, 7, recomputed_logprobs=False) == 21 * 13
    assert formulas.rollout_batch(3, 7, recomputed_logprobs=True) == 21 * 17


def test_the_engine_has_the_merged_weights_once() -> None:
    assert formulas.engine_weights(LORA, dtype=2, cuda=True) == 2 * 3000
    assert formulas.engine_weights(FULL, dtype=4, cuda=False) == 4 * (3000 + 800)


def test_the_kv_cache_has_a_key_and_a_value_a_layer() -> None:
    # R1-Distill-Qwen-7B in bf16: 2 x 28 layers x 4 heads x 128 x 2 bytes = 56 KiB a token.
    model = dataclasses.replace(FULL, layers=28, kv_heads=4, head_size=128)
    assert formulas.kv_bytes_per_token(model, dtype=2) == 57_344


def test_the_engine_at_work() -> None:
    assert formulas.engine_layer(FULL, batched_tokens=5, dtype=2) == 5 * 2 * (48 + 32)
    assert formulas.engine_sampler(FULL, sequences=3, dtype=2) == 3 * 100 * 18
    # The embedding, 2 x 800, or two matrices of 128: 2 x 2 bytes, with LoRA 12 more.
    assert formulas.push_workspace(FULL, dtype=2) == 1600
    assert formulas.push_workspace(LORA, dtype=2) == 16 * 128
