"""Embeddings are what the teacher's precision says, whatever global flags of torch a user has set."""

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """While the block lasts float32 is float32, and sums of half-precision products are taken in float32.

    By default torch takes TF32, which keeps 10 of 23 bits, for float32 convolutions on CUDA, such as a ViT's patch
    embedding, and may add up parts of a half-precision product in half precision. A user may have allowed TF32 for
    products too, or bfloat16 on a CPU (``torch.set_float32_matmul_precision``). Afterwards all flags are as they were.
    Only torch's newer interface for float32 is used, which can be read whatever was set before; its older one,
    ``allow_tf32``, may refuse to be read within the block.
    """
    import torch

    products = torch.backends.cuda.matmul
    backends: Any = torch.backends
    floats = [products, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv]
    sums = ("allow_bf16_reduced_precision_reduction", "allow_fp16_reduced_precision_reduction")
    before = [backend.fp32_precision for backend in floats]
    # The second of each says whether a product may be split, which is left as it is.
    reduced = {name: (getattr(products, name), getattr(products, f"{name}_split_k")) for name in sums}
    half = products.allow_fp16_accumulation
    try:
        for backend in floats:
            backend.fp32_precision = "ieee"
        for name, (_, split) in reduced.items():
            setattr(products, name, (False, split))
        products.allow_fp16_accumulation = False
        yield
    finally:
        for backend, precision in zip(floats, before):
            backend.fp32_precision = precision
        for name, flags in reduced.items():
            setattr(products, name, flags)
        products.allow_fp16_accumulation = half
