"""What can become of a sample: the words of ``images.status``, and how a worker says which one it was.

img2dataset carries the failure of a sample as one text. Ours begins with the status in brackets, so that it survives
any of its distributors, and goes on with a reason that many samples share and a detail that they do not:
``[too_large] more bytes than allowed: 50,000,001``. Tables hold the status and ``reason: detail`` apart.
"""

from typing import TYPE_CHECKING, Final, Literal, get_args

if TYPE_CHECKING:
    import pyarrow as pa

Failure = Literal[
    "failed_to_download",
    "failed_to_resize",
    "refused_address",
    "opted_out",
    "too_large",
    "too_slow",
    "failed_in_worker",
]
"""Statuses of samples that have no image; those are the ones that can be fetched again."""

SUCCESS = "success"
LOST: Final = "failed_in_worker"

STATUSES: dict[str, str] = {
    SUCCESS: "The image is in the tar.",
    "failed_to_download": "No whole answer: no such host, no connection, broken TLS, an HTTP error, a cut body, "
    "too many redirects.",
    "failed_to_resize": "An answer that is no usable image: another format, damaged, too small, too elongated.",
    "refused_address": "The URL, or a redirect, leads where nothing may be fetched. Nothing was sent there.",
    "opted_out": "The server asks not to use the image, by an `X-Robots-Tag` header or by its robots.txt.",
    "too_large": "More bytes or more pixels than allowed. Neither is read or decoded past the limit.",
    "too_slow": "The answer was not complete within the time for one sample.",
    LOST: "The worker stumbled over this sample: it broke the decoder, kept it for too long, or was not foreseen.",
}
assert set(get_args(Failure)) == set(STATUSES) - {SUCCESS}

_DETAIL_LETTERS = 200


class SampleError(Exception):
    """A sample fails, with the status it will have. ``transient``: the same request may well succeed a moment later.

    Not an OSError on purpose: urllib would wrap that and hide it.
    """

    def __init__(self, status: Failure, reason: str, detail: object = "", *, transient: bool = False):
        self.status, self.reason, self.transient = status, reason, transient
        text = " ".join(str(detail).replace("\0", " ").split())[:_DETAIL_LETTERS]
        super().__init__(f"[{status}] {reason}" + (f": {text}" if text else ""))


def split_outcomes(status: "pa.ChunkedArray", error: "pa.ChunkedArray") -> tuple["pa.ChunkedArray", "pa.ChunkedArray"]:
    """Status and error of each row, from img2dataset's status and a text that begins with one of ours.

    One that does not comes from urllib, which looks at a URL before it asks the guard. A sample that img2dataset left
    out, on an error of its own, has no text at all.
    """
    import pyarrow.compute as pc

    parts = pc.extract_regex(error, r"(?s)^\[(?P<status>[a-z_]+)\] (?P<error>.*)$")
    foreign = pc.binary_join_element_wise("malformed URL", pc.if_else(pc.equal(error, ""), None, error), ": ")
    unsaid = pc.if_else(pc.equal(status, SUCCESS), None, "unforeseen error: see img2dataset.log")
    return (
        pc.coalesce(pc.struct_field(parts, "status"), status),
        pc.coalesce(pc.struct_field(parts, "error"), foreign, unsaid),
    )
