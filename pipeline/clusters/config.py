"""The section `clusters`."""

from pydantic import Field

from pipeline.core.settings import Section


class ClustersConfig(Section):
    """k-means on the kept image embeddings."""

    clusters: int = Field(
        256,
        description="Number of clusters. The paper's is not known; MLCD found 1M best for LAION-400M "
        "(proxy, unconfirmed).",
        ge=1,
    )
    iterations: int = Field(25, description="Lloyd iterations.", ge=1)
    spherical: bool = Field(True, description="Normalize centroids after each iteration.")
    seed: int = Field(0, description="Seed of the initial centroids and of the training sample.")
    train_samples: int | None = Field(
        None,
        description="Embeddings that k-means is fitted on; none means all. faiss would cap silently at 256 a cluster.",
        ge=1,
    )
