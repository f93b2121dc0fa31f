"""A release that the package index does not have is told with those that it has."""

from types import SimpleNamespace

import pytest

from tlbench import BadInput
from tlbench.environments import package_index

RELEASES = ("2.18.0", "3.0.0", "3.10.0", "3.9.0", "4.0.0b1", "4.2.0", "4.3.0")


@pytest.fixture
def index(monkeypatch):
    """An index with these releases, in alphabetical order. The one that is downloaded is returned by name."""
    packages = [SimpleNamespace(version=one, filename=f"a-{one}-py3-none-any.whl") for one in RELEASES]
    monkeypatch.setattr(package_index, "packages_of", lambda *_: packages)
    monkeypatch.setattr(package_index, "download", lambda _, package, *__: package.filename)


@pytest.mark.parametrize(
    ("wanted", "nearest"),
    [
        ("9.9.9", "4.2.0, 4.3.0, and the newest is 4.3.0"),
        ("3.9.1", "3.0.0, 3.9.0, 3.10.0, 4.2.0, and the newest is 4.3.0"),
        ("1.0", "2.18.0, 3.0.0, and the newest is 4.3.0"),
        ("3.9final", "2.18.0, 3.0.0, and the newest is 4.3.0"),
    ],
)
def test_an_unknown_release_is_told_with_the_nearest_and_the_newest(index, tmp_path, wanted, nearest):
    with pytest.raises(BadInput) as told:
        package_index.wheel("a", wanted, tmp_path)
    assert str(told.value) == f"no release {wanted} of a is on the package index: the nearest are {nearest}"


@pytest.mark.parametrize(("wanted", "found"), [("3.9.0", "3.9.0"), ("4.3", "4.3.0"), ("4.0.0b1", "4.0.0b1")])
def test_a_release_may_be_written_short(index, tmp_path, wanted, found):
    assert package_index.wheel("a", wanted, tmp_path) == f"a-{found}-py3-none-any.whl"


def test_a_project_without_wheels_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(package_index, "packages_of", lambda *_: [])
    with pytest.raises(BadInput, match=r"^no release 1.0 of a has a wheel on the package index$"):
        package_index.wheel("a", "1.0", tmp_path)
