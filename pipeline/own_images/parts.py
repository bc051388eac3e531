"""What becomes one shard: a tar, some images of a folder, or some rows of a Parquet file."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

import duckdb
import pyarrow as pa

from pipeline.core.files import fingerprint_of
from pipeline.own_images.config import OwnImages
from pipeline.own_images.find import Source
from pipeline.own_images.folder import Picture, folder_samples, list_pictures
from pipeline.own_images.parquet import count_rows, parquet_samples
from pipeline.own_images.tars import tar_samples


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """The part of a source that one shard is made of; ``identity`` of all files of it."""

    source: Source
    identity: str
    pictures: Sequence[Picture] = ()
    rows: tuple[int, int] = (0, 0)

    def samples(
        self, connection: duckdb.DuckDBPyConnection, config: OwnImages, types: Mapping[str, str], *, shard: str
    ) -> tuple[pa.Table, dict[str, int]]:
        """What is found in it, and counts of what is not a sample."""
        if self.source.format == "tars":
            table, counts = tar_samples(connection, self.source.files[0], config, types, shard=shard)
        elif self.source.format == "folder":
            table, counts = folder_samples(connection, self.pictures, config, types, shard=shard)
        else:
            table, counts = parquet_samples(connection, self.source.files[0], self.rows, config, types, shard=shard)
        place = table.column_names.index("identity")
        return table.set_column(
            place, table.field(place), pa.array([self.identity] * table.num_rows, pa.string())
        ), counts


def cut_into_parts(sources: Sequence[Source], config: OwnImages) -> tuple[list[Part], dict[str, int]]:
    """The parts of all sources, in their order, and counts of what is passed over."""
    parts: list[Part] = []
    counts = Counter[str]()
    carried = [column.name for column in config.carried]
    for source in sources:
        if source.format == "tars":
            parts.append(Part(source=source, identity=source.files[0].identity))
        elif source.format == "folder":
            pictures, others = list_pictures(source, carried)
            counts.update(others)
            found = (pictures[start : start + config.samples_per_shard] for start in _starts(len(pictures), config))
            parts += [Part(source=_bare(source), identity=_identity(some), pictures=some) for some in found]
        else:
            rows = count_rows(source.files[0], config)
            for start in _starts(rows, config):
                span = (start, min(start + config.samples_per_shard, rows))
                parts.append(Part(source=source, identity=fingerprint_of(source.files[0].identity, span), rows=span))
    return parts, dict(counts)


def _starts(count: int, config: OwnImages) -> range:
    return range(0, count, config.samples_per_shard)


def _bare(folder: Source) -> Source:
    """Without its files, which may be many: those of a part are named in it."""
    return dataclasses.replace(folder, files=())


def _identity(pictures: Sequence[Picture]) -> str:
    return fingerprint_of(
        [
            [picture.key, *(place.identity if place else None for place in (picture.image, picture.text)), picture.told]
            for picture in pictures
        ]
    )
