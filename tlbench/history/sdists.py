"""The files of a source archive (sdist), and nothing unsafe among them."""

from __future__ import annotations

import tarfile
import zlib
from pathlib import Path

from tlbench.exceptions import BadInput
from tlbench.history.repository import SourceFile, safe_parts


def read_sdist(archive: Path) -> tuple[dict[str, SourceFile], dict[str, str]]:
    """The files of a source archive without its top folder, and from path to reason what is left out.

    Raises:
        BadInput: if it is no gzipped tar file, or if a member would lie outside its one top folder.
    """
    files: dict[str, SourceFile] = {}
    left_out: dict[str, str] = {}
    tops = set()
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                if member.isdir():
                    continue
                top, *inner = safe_parts(member.name, archive.name)
                tops.add(top)
                if not inner or len(tops) > 1:
                    raise BadInput(
                        f"{archive.name} has {member.name!r} outside its one top folder, as no sdist has: "
                        "build without this release, and report it to TransformerLens"
                    )
                path, content = "/".join(inner), tar.extractfile(member) if member.isfile() else None
                if content is None:
                    left_out[path] = "a link" if member.issym() or member.islnk() else "not a regular file"
                else:
                    files[path] = SourceFile(content.read(), bool(member.mode & 0o100))
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise BadInput(f"cannot read {archive.name} as a gzipped tar file ({error}): fetch it again") from error
    return files, left_out
