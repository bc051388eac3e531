"""``python -m pipeline.import_embeddings SOURCE ROOT``."""

import argparse
from pathlib import Path

from pipeline.import_embeddings import stage


def main() -> None:
    parser = argparse.ArgumentParser(description=stage.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("root", type=Path)
    for name, default in (("url-column", "url"), ("caption-column", "caption"), ("url-prefix", "")):
        parser.add_argument(f"--{name}", default=default)
    for name in ("image", "text"):
        parser.add_argument(f"--{name}-column", default=f"{name}_embedding", help="of a Parquet source")
    parser.add_argument("--teacher", default="unknown", help="name of the model, noted in the files")
    result = stage.import_embeddings(**vars(parser.parse_args()))
    counts = ", ".join(f"{name} {value}" for name, value in result.stats.items())
    print(f"{result.rows} embeddings ({counts}) under {result.files[0].parents[1]}")


if __name__ == "__main__":
    main()
