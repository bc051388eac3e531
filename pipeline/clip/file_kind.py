"""What a file is by its first bytes, in words for an error: a name may lie, and a server may send another thing."""

from pathlib import Path

JSON = "a JSON file"
SAFETENSORS = "a safetensors file"
TORCH = "a file of torch.save"
WEIGHTS = (SAFETENSORS, TORCH)

_HEAD = 512
_MARKUP = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")


def kind_of(path: Path) -> str:
    """One of the kinds above, or what else it is; raises ``OSError`` for a file that cannot be read."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not head.strip(b"\0 \r\n\t"):
        return "an empty file"
    if text.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, which `git lfs pull` replaces by the file"
    if text.startswith(_MARKUP):
        return "a web page"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return SAFETENSORS
    # A zip archive, or a pickle of an older torch.
    if head.startswith(b"PK\x03\x04") or head[:1] == b"\x80":
        return TORCH
    return JSON if text.startswith(b"{") else "neither weights nor JSON"
