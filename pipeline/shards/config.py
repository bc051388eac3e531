"""The section `shards`."""

from pydantic import Field

from pipeline.core.settings import Section


class ShardsConfig(Section):
    """Training shards: WebDataset tars of kept pairs with teacher embeddings and cluster label."""

    samples_per_shard: int = Field(1000, description="Samples in one tar.", ge=1, le=100_000)
    seed: int = Field(0, description="Seed of the global shuffle.")
