"""Read the files of a source archive (sdist), and reject unsafe ones."""

from __future__ import annotations

import tarfile
import zlib
from pathlib import Path

from tlbench.exceptions import BadInput
from tlbench.history.repository import SourceFile, safe_parts


def read_sdist(archive: Path) -> tuple[dict[str, SourceFile], dict[str, str]]:
    """The files of a source archive by path below its top folder, and the reason for each path that is left out.

    Raises ``BadInput`` if it is not a gzipped tar file, or has a member outside its single top folder.
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
                        f"{archive.name} has {member.name!r} outside its single top folder, which no valid sdist does: "
                        "build without this release, and report it to TransformerLens"
                    )
                path, content = "/".join(inner), tar.extractfile(member) if member.isfile() else None
                if content is None:
                    left_out[path] = "a link" if member.issym() or member.islnk() else "not a regular file"
                else:
                    files[path] = SourceFile(content.read(), bool(member.mode & 0o100))
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise BadInput(f"cannot read {archive.name} as a gzipped tar file ({error}): download it again") from error
    return files, left_out
