"""Features: order, normalization, independence of batch size, and images that cannot be decoded."""

import dataclasses

import pytest
import torch

from pipeline.core.errors import EmbeddingError, ShardError
from training.evaluation.datasets import read_evaluation_set
from training.evaluation.features import image_features, text_features


def test_rows_are_unit_vectors_in_the_order_of_samples(color_clip, make_set, samples):
    split = read_evaluation_set(make_set("colors", test=[samples(3)])).test
    features = image_features(color_clip, split, batch_size=4)
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, torch.eye(3).repeat(3, 1))


@pytest.mark.parametrize("batch_size, decode_threads", [(1, 1), (5, 2), (100, 8)])
def test_batches_and_threads_change_nothing(color_clip, make_set, samples, batch_size, decode_threads):
    split = read_evaluation_set(make_set("colors", test=[samples(7), samples(4)])).test
    expected = image_features(color_clip, split, batch_size=1000)
    found = image_features(color_clip, split, batch_size=batch_size, decode_threads=decode_threads)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_text_features(color_clip):
    features = text_features(color_clip, ["red", "blue", "a green one"], batch_size=2)
    assert features.argmax(dim=1).tolist() == [0, 2, 1]
    torch.testing.assert_close(features.norm(dim=1), torch.ones(3))


def test_unreadable_image_names_tar_and_key(color_clip, make_set, one_sample):
    broken = {**one_sample("bad", "red", label="0"), "png": b"\x89PNG no"}
    split = read_evaluation_set(make_set("colors", test=[[one_sample("a", "red", label="0"), broken]])).test
    with pytest.raises(ShardError, match=r"0\.tar, key bad"):
        image_features(color_clip, split, batch_size=8)


def test_an_image_beyond_pillows_limit_names_tar_and_key(color_clip, make_set, samples, monkeypatch):
    split = read_evaluation_set(make_set("colors", test=[samples(1)])).test
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 2)
    with pytest.raises(ShardError, match=r"0\.tar, key .*DecompressionBomb"):
        image_features(color_clip, split, batch_size=8)


def test_features_that_are_not_finite_are_refused(color_clip, make_set, samples):
    split = read_evaluation_set(make_set("colors", test=[samples(1)])).test
    broken = dataclasses.replace(color_clip, preprocess=lambda image: torch.full((3, 4, 4), torch.nan))
    with pytest.raises(EmbeddingError, match="3 of 3"):
        image_features(broken, split, batch_size=8)
