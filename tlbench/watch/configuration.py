"""What to watch and whom to tell: ``watch.toml``, beside asv's configuration."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import msgspec

from tlbench.environments import UPSTREAM
from tlbench.exceptions import BadInput
from tlbench.watch.messages import Level


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the file."""


class Webhook(_Section, frozen=True):
    """Where to post JSON. The body is signed with the secret that the environment variable ``secret`` names."""

    url: str
    secret: str = "TLBENCH_WEBHOOK_SECRET"
    level: Level = Level.NEWS


class GitHub(_Section, frozen=True):
    """The repository for issues, ``OWNER/NAME``; by default the one of the workflow that runs.

    The environment variable that ``token`` names holds a token that may write issues.
    """

    repository: str = ""
    token: str = "GITHUB_TOKEN"
    api: str = "https://api.github.com"
    label: str = "numerics"
    level: Level = Level.ALARM

    @property
    def repository_name(self) -> str:
        """The repository. Raises BadInput if neither the file nor the workflow names one."""
        return self.repository or secret("GITHUB_REPOSITORY", "OWNER/NAME, or write `repository` in the file")


class Mail(_Section, frozen=True):
    """Who gets mail, through the machine's own ``sendmail``."""

    to: tuple[str, ...]
    sender: str
    sendmail: str = "/usr/sbin/sendmail"
    level: Level = Level.ALARM


class Publish(_Section, frozen=True):
    """What asv measures of a new commit, for the site. Without ``bench`` asv measures nothing."""

    bench: str = ""
    machine: str = "shared-x86-64-lane"
    html: str = "html"


class Configuration(_Section, frozen=True):
    """The whole file.

    Attributes:
        upstream: the repository to watch, and the ``branches`` in it.
        releases: whether to watch the package index too.
        model, dtype, option, wrapper: the cells, as in `tlbench steps`; empty for its defaults.
        exhaustive: whether to measure every commit that changes code, so that a fault that is gone the same night is told.
        max_age_h: from how many hours on the news counts as old.
        url: where the site is published.
        allow: a file of accepted steps, as for `tlbench check`.
        feed: whether to write an Atom feed into the site.
    """

    upstream: str = UPSTREAM
    branches: tuple[str, ...] = ("dev", "main")
    releases: bool = True
    model: tuple[str, ...] = ()
    dtype: tuple[str, ...] = ()
    option: tuple[str, ...] = ()
    wrapper: tuple[str, ...] = ()
    exhaustive: bool = True
    max_age_h: float = 36.0
    url: str = ""
    allow: str = ""
    feed: bool = True
    publish: Publish | None = None
    webhook: Webhook | None = None
    github: GitHub | None = None
    mail: Mail | None = None


def read(path: Path) -> Configuration:
    """Read a configuration. Raises BadInput if it is missing or malformed."""
    try:
        found = msgspec.convert(tomllib.loads(path.read_text()), Configuration)
    except FileNotFoundError:
        raise BadInput(
            f"no configuration {path} for the watch: write one, see docs/watch.md, or name it with --config"
        ) from None
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: {error}: see docs/watch.md for what the file may hold") from error
    if not found.branches:
        raise BadInput(f"{path}: `branches` is empty: name at least one branch of {found.upstream}")
    return found


def secret(variable: str, purpose: str) -> str:
    """The value of an environment variable. Raises BadInput if it is empty."""
    if value := os.environ.get(variable, ""):
        return value
    raise BadInput(f"${variable} is empty: set it to {purpose}")
