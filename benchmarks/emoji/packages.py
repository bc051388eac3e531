"""npm packages by name, version and hash: fetched by npm, checked and unpacked here.

``packages.json`` pins them, with the ``integrity`` of npm's own lock files and the license of the images in each.
"""

import base64
import dataclasses
import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

from pipeline.core.errors import ConfigError, DownloadError, SourceError

_ALGORITHM = "sha512"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Package:
    """One npm package; ``integrity`` is ``sha512-`` and the hash of its tarball in base64."""

    name: str
    version: str
    integrity: str
    license: str

    @property
    def file(self) -> str:
        """The name that npm gives to the tarball."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


def read_packages() -> dict[str, Package]:
    """The pinned packages by name."""
    pinned = json.loads(Path(__file__).with_name("packages.json").read_text())
    return {name: Package(name=name, **fields) for name, fields in pinned.items()}


def fetch(package: Package, folder: Path) -> Path:
    """The package's tarball in ``folder``, from there or else from npm.

    Raises :class:`ConfigError` without npm, :class:`DownloadError` with its own words where it fails, and
    :class:`SourceError` for a tarball with another hash, which is removed.
    """
    target = folder / package.file
    if not target.exists():
        npm = shutil.which("npm")
        if npm is None:
            raise ConfigError(f"npm is needed to fetch {package.name} and is not on the PATH: install Node.js")
        folder.mkdir(parents=True, exist_ok=True)
        # Where npm is ended, only this folder has a part of the tarball.
        with tempfile.TemporaryDirectory(dir=folder) as partial:
            command = [npm, "pack", f"{package.name}@{package.version}", "--json", "--pack-destination", partial]
            done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            if done.returncode or not Path(partial, package.file).exists():
                raise DownloadError(f"npm pack {package.name}@{package.version}: {_reason(done)}")
            Path(partial, package.file).rename(target)
    found = integrity_of(target)
    if found != package.integrity:
        target.unlink()
        raise SourceError(f"{target}: integrity {found}, expected {package.integrity}; removed")
    return target


def integrity_of(path: Path) -> str:
    """A file's hash as npm's lock files write it."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, _ALGORITHM).digest()
    return f"{_ALGORITHM}-{base64.b64encode(digest).decode()}"


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """What npm says of its failure, in its own JSON."""
    try:
        return str(json.loads(done.stdout)["error"]["summary"])
    except (ValueError, LookupError, TypeError):
        return f"status {done.returncode}, and no word of why"


def unpack(tarball: Path, target: Path, folder: str = "") -> None:
    """Unpack the files of one ``folder`` of a package (its top by default) into the new folder ``target``.

    It appears whole, and is taken as it is where it is there. Raises :class:`SourceError` for a tarball that cannot be
    read, that holds what leads elsewhere, or that has no such files.
    """
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        partial = Path(temporary, "files")
        partial.mkdir()
        try:
            with tarfile.open(tarball) as tar:
                for member in tar:
                    path = PurePosixPath(member.name)
                    if path.parent == PurePosixPath("package", folder) and not member.isdir():
                        # Times stay those of the package: by them an image is known to be unchanged.
                        tar.extract(member.replace(name=path.name), partial, filter="data")
        except (tarfile.TarError, EOFError, OSError) as error:
            raise SourceError(f"{tarball}: {error}") from error
        if not any(partial.iterdir()):
            raise SourceError(f"{tarball}: no files in package/{folder}")
        partial.rename(target)
