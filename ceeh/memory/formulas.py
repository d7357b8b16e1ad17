"""What each part of training and generation holds in memory: one formula per function, in bytes.

Axes: T tokens of a micro-batch with its padding, D width, A width of all query heads, K width of all
key heads, I width of the MLP, V vocabulary, C tokens of a head chunk. c is the bytes of a number in
the matrix products: 2 under bf16-mixed, 4 under 32-true; the residual stream, the norms and every
weight that is trained or frozen are in fp32 under both.

Activations are those of transformers' decoder layers with sdpa or flash attention, whose memory grows
with T alone (Dao et al., https://arxiv.org/abs/2205.14135), under Lightning's autocast, which keeps no
cache of casts: each product casts its own copy of its input and of its weight.
"""

from ceeh.memory.shapes import ATTENTION_INPUTS, MLP_INPUTS, PROJECTIONS, ModelShapes
from ceeh.modules.head import BLOCKS

FP32 = 4


def master_weights(shapes: ModelShapes) -> int:
    """4 P: all weights in fp32, the frozen ones beside an adapter too."""
    return FP32 * shapes.parameters


def gradients(shapes: ModelShapes) -> int:
    """4 P_trained; they stay until the next update clears them, through the rollouts."""
    return FP32 * shapes.trainable


def adamw_states(shapes: ModelShapes) -> int:
    """8 P_trained: first and second moment in fp32. https://arxiv.org/abs/1711.05101."""
    return 2 * FP32 * shapes.trainable


def adamw_workspace(shapes: ModelShapes, *, cuda: bool) -> int:
    """4 P_trained on CUDA, where torch steps all weights at once and takes a root of all moments.

    torch.optim.AdamW, argument `foreach`. Elsewhere a weight at a time: three of the largest.
    """
    return FP32 * (shapes.trainable if cuda else 3 * shapes.largest_trainable)


def reference_copy(shapes: ModelShapes, *, kl_coefficient: float) -> int:
    """4 P for the starting policy of the KL term; 0 with LoRA, whose base is the starting policy."""
    return FP32 * shapes.parameters if kl_coefficient > 0 and not shapes.rank else 0


def ddp_buckets(shapes: ModelShapes, *, processes: int) -> int:
    """4 P_trained: gradients once more, flat, for the reduction over several processes.

    torch.nn.parallel.DistributedDataParallel with gradient_as_bucket_view=False, its default.
    """
    return FP32 * shapes.trainable if processes > 1 else 0


def layer_kept(shapes: ModelShapes, tokens: int, *, compute: int) -> int:
    """What one decoder layer keeps for its backward pass, gradient checkpointing aside.

    A norm keeps its fp32 input and a factor per token, and its output before the scale where the
    scale is trained: 4 D + 4 (+ 4 D). Attention keeps q, k, v and its output, and 4 bytes per head:
    c (2 A + 2 K) + 4 H. The MLP keeps both factors of its product and the argument of the
    activation: 3 c I. Each product with a trained weight keeps its input: see `inputs_kept`. Under
    autocast each product keeps the cast weight: c per element.
    """
    trained = not shapes.rank
    query, key, heads = shapes.query_width, shapes.kv_width, shapes.heads
    norms = shapes.norms * (FP32 * shapes.width * (2 if trained else 1) + FP32)
    if shapes.head_norms:
        # By head: fp32 inputs and factors of q and k, outputs back in the compute dtype.
        norms += FP32 * (query + key + heads + shapes.kv_heads)
        norms += compute * (query + key) if trained else 0
    attention = compute * (2 * query + 2 * key) + FP32 * heads
    mlp = 3 * compute * shapes.mlp_width
    weights = compute * shapes.projection_elements if compute < FP32 else 0
    return tokens * (norms + attention + mlp + inputs_kept(shapes, compute=compute)) + weights


def inputs_kept(shapes: ModelShapes, *, compute: int) -> int:
    """Bytes per token of one layer that inputs of trained products keep beyond what others keep.

    In fp32 products of one input share it; cast, each has its own copy. Attention keeps its output
    itself, and o_proj's input is that where all is trained or nothing is cast. An adapter keeps the
    r numbers between its two matrices too, and with dropout a mask and its masked input.
    """
    trained = shapes.adapted if shapes.rank else PROJECTIONS
    widths = {name: shapes.projections[name][0] for name in trained}
    between = compute * shapes.rank * len(shapes.adapted)
    if shapes.dropout:
        return between + (compute + FP32) * sum(widths.values())
    if compute < FP32:
        if not shapes.rank:
            del widths["o_proj"]
        return between + compute * sum(widths.values())
    groups = (ATTENTION_INPUTS, MLP_INPUTS, ("down_proj",))
    shared = [max(widths.get(name, 0) for name in group) for group in groups]
    return between + FP32 * sum(shared)


def layer_workspace(shapes: ModelShapes, tokens: int, *, compute: int) -> int:
    """What one layer's backward pass holds beyond what it kept, at its largest moment.

    All weights trained: gradients of the MLP's two factors, 2 c I, and of the residual stream with
    the norm's output, 8 D. LoRA: down_proj's input in fp32 and cast, (4 + c) I, with 12 D of results
    not yet added, and with dropout 4 I of what it let through; in fp32 the gradients by both paths,
    8 I + 8 D.
    """
    if not shapes.rank:
        return tokens * (2 * compute * shapes.mlp_width + 2 * FP32 * shapes.width)
    if compute < FP32:
        casts = FP32 + compute + (FP32 if shapes.dropout else 0)
        return tokens * (casts * shapes.mlp_width + 3 * FP32 * shapes.width)
    return tokens * 2 * FP32 * (shapes.mlp_width + shapes.width)


def layers_kept(
    shapes: ModelShapes, tokens: int, *, compute: int, gradient_checkpointing: bool
) -> int:
    """What all layers keep until the backward pass; checkpointed, the fp32 input of each: 4 D T.

    Chen et al., https://arxiv.org/abs/1604.06174.
    """
    if gradient_checkpointing:
        return shapes.layers * FP32 * shapes.width * tokens
    return shapes.layers * layer_kept(shapes, tokens, compute=compute)


def backward_workspace(
    shapes: ModelShapes, tokens: int, *, compute: int, gradient_checkpointing: bool
) -> int:
    """One layer's `layer_workspace`; checkpointed, with what it computes again, less its input.

    A trained head that is the embedding too keeps its gradient, 4 V D, until the embedding adds to
    it at the end of the pass.
    """
    again = 0
    if gradient_checkpointing:
        again = layer_kept(shapes, tokens, compute=compute) - FP32 * shapes.width * tokens
    head = FP32 * shapes.vocabulary * shapes.width if shapes.tied and not shapes.rank else 0
    return again + head + layer_workspace(shapes, tokens, compute=compute)


def head_kept(shapes: ModelShapes, tokens: int) -> int:
    """What the last norm and the head keep: 4 D + 4 per token (4 D more if trained), the gradient of
    the response tokens' hidden states, 4 D of at most all of them, and that of a trained head, 4 V D."""
    own = 0 if shapes.rank else FP32 * shapes.vocabulary * shapes.width
    return tokens * (FP32 * shapes.width * (2 if shapes.rank else 3) + FP32) + own


def head_workspace(shapes: ModelShapes, tokens: int, *, chunk_tokens: int) -> int:
    """What the head holds at work beyond what it keeps: 4 C V + 4 D T, and one block's probabilities.

    One buffer of C x V in fp32: logits, log-probs and the gradient in each other's place. The hidden
    states whose gradient it makes live as long.
    """
    return head_buffers(shapes, tokens, chunk_tokens=chunk_tokens) + tokens * FP32 * shapes.width


def head_buffers(shapes: ModelShapes, tokens: int, *, chunk_tokens: int) -> int:
    """4 V (C + B): a chunk's logits, and probabilities of B = C / 16 of its tokens."""
    chunk = min(chunk_tokens, tokens)
    return FP32 * shapes.vocabulary * (chunk + -(-chunk // BLOCKS))


def forward_workspace(shapes: ModelShapes, tokens: int, *, compute: int, chunk_tokens: int) -> int:
    """A forward pass without gradient: the larger of one layer's MLP and the head.

    The MLP: its factors and their product, 3 c I, or with LoRA 4 c I (result, adapter's share and
    both's sum), and 17 D or 19 D of residual stream, norms and results. The head: `head_buffers`,
    hidden states and the response tokens' copy, 8 D.
    """
    mlp = (4 if shapes.rank else 3) * compute * shapes.mlp_width
    layer = tokens * (mlp + (19 if shapes.rank else 17) * shapes.width)
    head = head_buffers(shapes, tokens, chunk_tokens=chunk_tokens)
    return max(layer, head + tokens * 2 * FP32 * shapes.width)


def rollout_batch(rows: int, row_tokens: int, *, recomputed_logprobs: bool) -> int:
    """13 bytes per position: token id (8), response mask (1), the engine's log-prob (4); one more
    log-prob where the trainer recomputes them."""
    return rows * row_tokens * (8 + 1 + FP32 * (2 if recomputed_logprobs else 1))


def engine_weights(shapes: ModelShapes, *, dtype: int, cuda: bool) -> int:
    """The engine's own copy, an adapter merged, in its dtype.

    On the CPU the head is there twice, plain and packed for its matrix product.
    """
    adapter = shapes.trainable if shapes.rank else 0
    packed_head = 0 if cuda else shapes.vocabulary * shapes.width
    return dtype * (shapes.parameters - adapter + packed_head)


def kv_bytes_per_token(shapes: ModelShapes, *, dtype: int) -> int:
    """2 layers K dtype: a key and a value per layer. https://arxiv.org/abs/2309.06180."""
    return 2 * shapes.layers * shapes.kv_width * dtype


def engine_layer(shapes: ModelShapes, *, batched_tokens: int, dtype: int) -> int:
    """The engine's MLP at work: results of both its inputs' matrices and their product, 3 I, and 4 D."""
    return batched_tokens * dtype * (3 * shapes.mlp_width + 4 * shapes.width)


def engine_sampler(shapes: ModelShapes, *, sequences: int, dtype: int) -> int:
    """Logits, and in fp32 logits, log-probs, probabilities and noise: V (dtype + 16) a sequence.

    vLLM 0.32, v1/sample/sampler.py.
    """
    return sequences * shapes.vocabulary * (dtype + 4 * FP32)


def push_workspace(shapes: ModelShapes, *, dtype: int) -> int:
    """A weight push's largest moment: the embedding, or one MLP's two input matrices.

    vLLM 0.32 collects a layer's weights (model_loader/reload/layerwise.py), builds it anew and
    copies it over. With LoRA both matrices are there as fp32 sums, with the last one's share.
    """
    embedding = dtype * shapes.vocabulary * shapes.width
    inputs, outputs = shapes.projections["gate_proj"]
    mlp = (2 * dtype + (3 * FP32 if shapes.rank else 0)) * inputs * outputs
    return max(embedding, mlp)
