"""What becomes one shard: a tar, some images of a folder, or some rows of a Parquet file."""

import dataclasses
from collections.abc import Sequence

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
        self, connection: duckdb.DuckDBPyConnection, config: OwnImages, *, shard: str
    ) -> tuple[pa.Table, dict[str, int]]:
        """What is found in it, and counts of what is not a sample."""
        counts: dict[str, int] = {}
        if self.source.format == "tars":
            table, counts = tar_samples(connection, self.source.files[0], config, shard=shard)
        elif self.source.format == "folder":
            table = folder_samples(self.pictures, config, shard=shard)
        else:
            table = parquet_samples(self.source.files[0], *self.rows, config, shard=shard)
        place = table.column_names.index("identity")
        return table.set_column(
            place, table.field(place), pa.array([self.identity] * table.num_rows, pa.string())
        ), counts


def cut_into_parts(sources: Sequence[Source], config: OwnImages) -> tuple[list[Part], dict[str, int]]:
    """The parts of all sources, in their order, and counts of files that are passed over."""
    parts: list[Part] = []
    passed_over = 0
    for source in sources:
        if source.format == "tars":
            parts.append(Part(source=source, identity=source.files[0].identity))
        elif source.format == "folder":
            pictures, others = list_pictures(source)
            passed_over += others
            found = (pictures[start : start + config.samples_per_shard] for start in _starts(len(pictures), config))
            parts += [Part(source=_bare(source), identity=_identity(some), pictures=some) for some in found]
        else:
            rows = count_rows(source.files[0], config)
            for start in _starts(rows, config):
                span = (start, min(start + config.samples_per_shard, rows))
                parts.append(Part(source=source, identity=fingerprint_of(source.files[0].identity, span), rows=span))
    return parts, {"files_passed_over": passed_over} if passed_over else {}


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
