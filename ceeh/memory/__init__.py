"""The memory plan of a run: what one device holds, in which phases, and whether it fits.

Sizes are upper bounds in bytes; the tests measure how tight they are. T: tokens of a micro-batch with
padding. D: model width. A: width of all query heads. I: MLP width. V: vocabulary. c: bytes per element in
matrix products, 2 under bf16-mixed, 4 under 32-true. Trained weights and norms: always fp32. Frozen weights
under LoRA and then the residual stream: c if the model's files are in bf16, else fp32.
"""
