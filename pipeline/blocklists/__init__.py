"""Files that say what must not be used, and what alone may be: whom they name, among relations of pairs."""

from pipeline.blocklists.keep_list import keep_list_digests, unlisted_rows
from pipeline.blocklists.match import BlockedCounts, blocked_rows
from pipeline.blocklists.read import blocklist_digests

__all__ = ["BlockedCounts", "blocked_rows", "blocklist_digests", "keep_list_digests", "unlisted_rows"]
