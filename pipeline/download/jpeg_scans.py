"""How many scans a JPEG has, counted before it is decoded.

libjpeg goes over the whole picture once per scan, however little a scan holds: a progressive file of 76 kB and a
thousand empty scans keeps it busy for half a minute. Encoders write about ten; libtiff too reads a hundred at most.
"""

import re

MOST_SCANS = 100
# Within a scan, FF stands before 00 when it is data, before D0 to D7 when decoding may start anew, and may be repeated.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9


def has_too_many_scans(data: bytes | memoryview) -> bool:
    """Whether a JPEG has more than ``MOST_SCANS`` scans. Segments are stepped over: they may hold pictures too."""
    scans, place = 0, 2
    while scans <= MOST_SCANS and (found := _MARKER.search(data, place)):
        kind, place = found[0][1], found.end()
        if kind == _END_OF_IMAGE:
            break
        scans += kind == _START_OF_SCAN
        place += int.from_bytes(data[place : place + 2], "big")
    return scans > MOST_SCANS
