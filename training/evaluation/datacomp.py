"""DataComp's evaluation sets: under which folder each lies, its main metric, and which of them are measured here.

Names and metrics are those of ``tasklist.yml`` of mlfoundations/datacomp; 38 sets have a main metric, and their mean is
DataComp's score. Its script ``download_evalsets.py`` writes ``wds_<key>_test/`` for each, with a test split alone, but
for Flickr, MSCOCO and WinoGAViL, which it leaves in a cache of Hugging Face's ``datasets``.
"""

import dataclasses
from typing import Final

CACHE_FOLDER: Final = "hf_cache"

_ACCURACY = (
    *("cifar10", "vtab/cifar100", "vtab/clevr_count_all", "vtab/clevr_closest_object_distance", "country211"),
    *("vtab/dtd", "vtab/eurosat", "food101", "gtsrb", "imagenet1k", "imagenet_sketch", "imagenetv2", "imagenet-a"),
    *("imagenet-o", "imagenet-r", "vtab/kitti_closest_vehicle_distance", "mnist", "objectnet", "voc2007", "vtab/pcam"),
    *("renderedsst2", "vtab/resisc45", "cars", "stl10", "sun397", "vtab/svhn", "wilds/camelyon17"),
)
_RECALL = ("vtab/caltech101", "fgvc_aircraft", "vtab/flowers", "vtab/pets")
_RETRIEVAL = ("retrieval/flickr_1k_test_image_text_retrieval", "retrieval/mscoco_2014_5k_test_image_text_retrieval")
_BOTH_WAYS = "mean of image_to_text_recall@1 and text_to_image_recall@1"
_GROUPS = "which groups its test images belong to is in members that are not read"
_QUESTIONS = "its class names answer several questions"
_OTHERS = {
    "misc/winogavil": ("jaccard_score_10-12", "there is no task of choosing several images for a word"),
    "wilds/iwildcam": ("F1-macro_all", "there is no F1 score"),
    "wilds/fmow": ("acc_worst_region", _GROUPS),
    "fairness/dollar_street": ("acc_top5_wg", _GROUPS),
    "fairness/geode": ("acc_wg", _GROUPS),
    "fairness/fairface": (None, _QUESTIONS),
    "fairness/utkface": (None, _QUESTIONS),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataCompSet:
    """One of the sets: ``main_metric`` in DataComp's words, None for those that its score leaves out; ``metric`` what
    is the same here, of zero-shot classification or retrieval, or ``reason`` why nothing is."""

    key: str
    main_metric: str | None
    metric: str | None = None
    reason: str | None = None

    @property
    def folder(self) -> str:
        """Where DataComp's script puts it."""
        return f"wds_{self.name.replace('/', '-')}_test"

    @property
    def name(self) -> str:
        """As CLIP_benchmark has it, after ``wds/``."""
        return self.key.removeprefix("fairness/")

    @property
    def mixed(self) -> bool:
        """Whether no figure of zero-shot classification would have a meaning."""
        return self.reason == _QUESTIONS


SETS: Final = tuple(
    [DataCompSet(key=key, main_metric="acc1", metric="top1") for key in _ACCURACY]
    + [DataCompSet(key=key, main_metric="mean_per_class_recall", metric="mean_per_class_recall") for key in _RECALL]
    + [DataCompSet(key=key, main_metric="mean_recall@1", metric=_BOTH_WAYS) for key in _RETRIEVAL]
    + [DataCompSet(key=key, main_metric=metric, reason=reason) for key, (metric, reason) in _OTHERS.items()]
)
BY_FOLDER: Final = {each.folder: each for each in SETS}
