"""The section `storage`."""

from typing import Any

from pipeline.core.settings import Section, runtime


class StorageConfig(Section):
    """Only for a root that is a URL, such as `s3://bucket/prefix`: how it is reached, and where copies lie."""

    options: dict[str, Any] = runtime(
        {},
        "fsspec's options for that protocol, for example `endpoint_url` and `profile` of s3fs. Credentials are better "
        "left to the environment or `~/.aws`.",
    )
    scratch: str = runtime(
        "data/scratch",
        "Folder for local copies and for what is being made. With `compute.engine: ray` every node sees it under the "
        "same path.",
    )
