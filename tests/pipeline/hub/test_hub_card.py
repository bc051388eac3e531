"""Texts on cards."""

import pytest

from pipeline.core.errors import ConfigError
from pipeline.hub.card import check_hub_ids, check_license, escaped


def test_a_text_is_shown_and_does_nothing() -> None:
    assert escaped("a plain name, 3-4") == "a plain name, 3-4"
    assert escaped("a|b") == "a&#124;b" and escaped("www.x_y") == "www&#46;x&#95;y"
    assert escaped("two\nlines\t|") == "two lines &#124;"
    assert escaped("right\u202eleft\x00") == "right\N{REPLACEMENT CHARACTER}left\N{REPLACEMENT CHARACTER}".replace(
        "\N{REPLACEMENT CHARACTER}", "&#65533;"
    )
    assert escaped("ü" * 100) == "ü" * 77 + "&#46;" * 3


def test_identifiers() -> None:
    check_license(None)
    check_license("cc-by-nc-4.0")
    check_hub_ids(["me/data.set_1"], what="dataset")
    for wrong in ("", "CC-BY", "a b", "x\ny"):
        with pytest.raises(ConfigError, match="no identifier of the Hub"):
            check_license(wrong)
    for wrong in ("data", "a/b/c", "a/b\n", "http://x/y"):
        with pytest.raises(ConfigError, match=r"dataset .* is no name on the Hub"):
            check_hub_ids([wrong], what="dataset")
