"""The code and libraries that determine a figure. They are found from the imports, so no list can become outdated."""

from __future__ import annotations

import ast
import hashlib
import marshal
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import CodeType

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tlbench.paths import package_dir

PACKAGE = "tlbench"
PLAIN_MARSHAL = 2
"""The last version of the marshal format whose bytes do not depend on which objects a process happens to share."""


@lru_cache
def code_digest(*modules: str) -> str:
    """A SHA-256 over the code of modules such as ``tlbench.questions.accuracy`` and of all tlbench modules behind them.

    Comments and docstrings are left out. They affect no figure, so rewording them must not cause a new measurement.
    """
    digest = hashlib.sha256()
    for name in sorted(modules_behind(*modules)):
        digest.update(name.encode() + b"\0" + _read(name)[1])
    return digest.hexdigest()


@lru_cache
def modules_behind(*modules: str) -> frozenset[str]:
    """The modules and all tlbench modules that they import in turn, be it at the top, in functions or for types."""
    behind: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name not in behind:
            behind.add(name)
            waiting += [PACKAGE, *_read(name)[0]]
    return frozenset(behind)


@lru_cache
def libraries(*roots: str) -> dict[str, str]:
    """Versions of installed packages and of everything they require, directly or indirectly, sorted by name."""
    versions: dict[str, str] = {}
    waiting = list(roots)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in versions:
            continue
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            continue
        versions[name] = installed.version
        for requirement in map(Requirement, installed.requires or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return dict(sorted(versions.items()))


@lru_cache
def _file(name: str) -> Path | None:
    path = package_dir().parent.joinpath(*name.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


@lru_cache
def _read(name: str) -> tuple[frozenset[str], bytes]:
    """The tlbench modules that a module imports, and its :func:`_code`."""
    file = _file(name)
    if file is None:
        raise ModuleNotFoundError(f"no module {name} in {PACKAGE}", name=name)
    tree = ast.parse(file.read_text())
    return frozenset(_imported(tree)), _code(tree)


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            candidates = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            candidates = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for candidate in candidates:
            parts = candidate.split(".")
            if parts[0] == PACKAGE:
                packages = (".".join(parts[:n]) for n in range(1, len(parts) + 1))
                yield from (package for package in packages if _file(package))


def _code(tree: ast.Module) -> bytes:
    """A module's bytecode without line numbers. Bytecode at this optimisation level has neither comments nor docstrings."""
    code = compile(tree, PACKAGE, "exec", dont_inherit=True, optimize=2)
    return marshal.dumps(_without_places(code), PLAIN_MARSHAL)


def _without_places(code: CodeType) -> CodeType:
    constants = (_without_places(value) if isinstance(value, CodeType) else value for value in code.co_consts)
    return code.replace(co_consts=tuple(constants), co_firstlineno=0, co_linetable=b"")
