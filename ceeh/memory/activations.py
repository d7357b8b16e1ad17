"""What the trainer works with beside weights: activations, logits, and AdamW's workspace.

The letters T, D, A, I, V and c are those of `ceeh.memory`.
"""

from ceeh.config.settings import LoRA, Model
from ceeh.memory.shapes import FP32, MATRICES, ModelShapes
from ceeh.modules.logits import block_tokens


def layer_activations(shapes: ModelShapes, lora: LoRA, tokens: int, *, compute: int) -> int:
    """What one decoder layer keeps for its backward pass, with sdpa or flash attention.

    Per token each matrix keeps its input and output (c each), the MLP its activation (c I), attention
    its output (c A). Norms keep their fp32 input and, if trained, output. LoRA adds r elements a
    matrix, its dropout an fp32 mask of each input. Autocast keeps a cast copy of each matrix.
    """
    inputs, outputs = (sum(side) for side in zip(*shapes.layer.values(), strict=True))
    more = shapes.layer["down_proj"][0] + shapes.layer["o_proj"][0] + len(MATRICES) * lora.rank
    norms = FP32 * shapes.norm_width * (1 if lora.rank else 2)
    masks = FP32 * inputs if lora.rank and lora.dropout else 0
    casts = 0
    if compute < shapes.frozen(lora, compute) or lora.base == "nf4":
        casts = compute * sum(i * o for i, o in shapes.layer.values())
    return tokens * (compute * (inputs + outputs + more) + norms + masks) + casts


def head_logits(
    shapes: ModelShapes, settings: Model, tokens: int, *, compute: int, gradient: bool, cuda: bool
) -> int:
    """A chunk's logits in fp32, and intermediates of four blocks, six for the gradient.

    With bf16 operands also their `gradient`, and the head's weight unless it is in bf16. The CPU has no such
    product and multiplies fp32 copies.
    """
    chunk = min(settings.head_chunk_tokens, tokens)
    logits, matrix = shapes.vocabulary * chunk, shapes.vocabulary * shapes.width
    block = shapes.vocabulary * min(chunk, block_tokens(shapes.vocabulary))
    blocks = (6 if gradient else 4) * FP32 * block
    if compute == FP32:
        return FP32 * logits + blocks
    grad_logits = logits if gradient else 0
    copies = 0 if cuda else FP32 * (matrix + grad_logits)
    weight = compute * matrix if shapes.frozen(settings.lora, compute) > compute else 0
    return FP32 * logits + weight + max(blocks, compute * grad_logits + copies)


def update_activations(
    shapes: ModelShapes, settings: Model, tokens: int, *, compute: int, cuda: bool = False
) -> int:
    """Forward and backward of one micro-batch: what all layers keep, and the larger of head and layer.

    With gradient checkpointing a layer keeps its fp32 input, and backward computes one layer again
    (https://arxiv.org/abs/1604.06174). A trained head holds a second gradient, 4 V D, until backward
    adds it; to the end if it is tied to the embedding.
    """
    full, mlp = not settings.lora.rank, tokens * shapes.layer["down_proj"][0]
    stream = shapes.frozen(settings.lora, compute) * shapes.width * tokens
    kept = layer = layer_activations(shapes, settings.lora, tokens, compute=compute)
    head_gradient = FP32 * shapes.vocabulary * shapes.width if full else 0
    head = head_logits(shapes, settings, tokens, compute=compute, gradient=True, cuda=cuda)
    head += 5 * stream + head_gradient + 8 * tokens  # and the positions of the response tokens
    backward = 3 * stream + (head_gradient if shapes.tied else 0)
    backward += mlp * (2 * compute if full else 3 * FP32 if settings.lora.dropout else 2 * FP32)
    if settings.gradient_checkpointing:
        kept, backward = stream, backward + layer
    return shapes.layers * kept + max(head, backward)


def forward_activations(
    shapes: ModelShapes, settings: Model, tokens: int, *, compute: int, cuda: bool = False
) -> int:
    """Without gradient: the larger of one layer's MLP, 4 c I + 20 D a token, and the head."""
    layer = tokens * (4 * compute * shapes.layer["down_proj"][0] + 20 * shapes.width)
    head = head_logits(shapes, settings, tokens, compute=compute, gradient=False, cuda=cuda)
    return max(layer, head + 2 * FP32 * shapes.width * tokens)


def optimizer_workspace(shapes: ModelShapes, *, cuda: bool) -> int:
    """AdamW's roots of second moments: of all weights at once on CUDA, else three of the largest."""
    return FP32 * (shapes.trained if cuda else 3 * shapes.largest_trained)
