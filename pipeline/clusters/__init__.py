"""Stage `clusters`: kept embeddings in, centroids and a label for each image out."""

from pipeline.clusters.config import ClustersConfig
from pipeline.clusters.kmeans_clusters import ClusterReport, cluster_embeddings
from pipeline.clusters.stage import cluster_images

__all__ = ["ClusterReport", "ClustersConfig", "cluster_embeddings", "cluster_images"]
