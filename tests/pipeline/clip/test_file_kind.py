import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from pipeline.clip.file_kind import JSON, SAFETENSORS, TORCH, kind_of


def _saved(legacy: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(1)}, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (safetensors.numpy.save({"a": np.zeros(1)}), SAFETENSORS),
        (_saved(legacy=False), TORCH),
        (_saved(legacy=True), TORCH),
        (pickle.dumps([1]), TORCH),
        (b'\xef\xbb\xbf\n {"embed_dim": 8}', JSON),
        (b"", "an empty file"),
        (b"\0" * 4096, "an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a pointer of Git LFS"),
        (b"\n<!DOCTYPE html><html>Sign in</html>", "a web page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "a web page"),
        (b"\x89PNG\r\n", "neither weights nor JSON"),
        (b"12345678{", "neither weights nor JSON"),
    ],
)
def test_a_file_is_what_its_first_bytes_say(tmp_path: Path, content: bytes, kind: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert kind_of(path).startswith(kind)
