"""What a clone says of its commits, and what several commits have in common."""

import json

import pytest

from tests.test_environments import git
from tests.test_installer import wheel
from tlbench.environments import installer, provenance
from tlbench.environments.commits import Clone, code_of, pull_request
from tlbench.environments.provenance import PACKAGE, RECORD_NAME
from tlbench.environments.workshop import Workshop
from tlbench.exceptions import BadInput, CellFailed

CODE = "def f(x):\n    return x + 1\n"


@pytest.fixture
def clone(tmp_path):
    """An empty clone, and how to add a commit to it."""
    folder = tmp_path / "clone"
    (folder / PACKAGE).mkdir(parents=True)
    git(folder, "init", "--quiet", "--initial-branch=main")
    (folder / "pyproject.toml").write_text("1")
    return Clone(folder, tmp_path / "kept" / "code.txt")


def commit(clone, subject="subject", **files):
    for name, text in files.items():
        path = clone.path / name.replace("__", "/", 1).replace("_py", ".py").replace("_toml", ".toml").replace("_md", ".md")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    git(clone.path, "add", "--all")
    git(clone.path, "commit", "--quiet", "--allow-empty", f"--message={subject}")
    return clone.resolve("HEAD")


def test_comments_docstrings_and_words_beside_the_package_are_no_other_content(clone):
    first = commit(clone, transformer_lens__a_py=CODE)
    documented = '"""A module."""\n' + CODE.replace(":\n", ':\n    """Add one."""  # a comment\n')
    assert clone.content(commit(clone, transformer_lens__a_py=documented, README_md="words")) != clone.content(first)
    second = clone.resolve("HEAD")
    assert clone.content(commit(clone, transformer_lens__a_py=CODE, README_md="other words")) == clone.content(second)


@pytest.mark.parametrize(
    "other", ["def f(x):\n    return x + 2\n", "def f(x):\n    assert x\n    return x + 1\n", "x = '''a'''"]
)
def test_any_other_code_is_another_digest(other):
    assert code_of(other.encode()) != code_of(CODE.encode())


def test_a_docstring_alone_in_a_function_and_a_file_that_does_not_parse_have_a_digest():
    assert code_of(b'def f():\n    """Words."""\n') == code_of(b'def f():\n    """Others."""\n')
    assert code_of(b"print 'python 2'") != code_of(b"print 'other'")


def test_other_build_files_are_another_content_and_a_lock_is_not(clone):
    first = commit(clone, transformer_lens__a_py=CODE)
    assert clone.content(commit(clone, pyproject_toml="2")) != clone.content(first)
    (clone.path / "poetry.lock").write_text("1")
    assert clone.content(commit(clone)) == clone.content(clone.resolve("HEAD^"))


def test_digests_of_code_are_kept_for_the_next_run(clone, monkeypatch):
    first = commit(clone, transformer_lens__a_py=CODE)
    content = clone.content(first)
    clone.keep_code()
    again = Clone(clone.path, clone.code_file)
    monkeypatch.setattr("tlbench.environments.commits.code_of", lambda _: pytest.fail("parsed again"))
    assert again.content(first) == content


def test_names_are_hashes_tags_releases_and_branches_and_others_are_refused(clone):
    first = commit(clone)
    git(clone.path, "tag", "v1.2.0")
    assert {clone.resolve(name) for name in ("1.2.0", "v1.2.0", "main", first[:9])} == {first}
    for name in ("1.3.0", "nothing", "--all", ""):
        with pytest.raises(BadInput, match="no commit"):
            clone.resolve(name)


def test_a_range_that_goes_nowhere_is_refused_with_what_to_do(clone):
    first, second = commit(clone), commit(clone)
    clone.require_range(first, second)
    with pytest.raises(BadInput, match="both ends"):
        clone.require_range(first, first)
    with pytest.raises(BadInput, match="turn the range round"):
        clone.require_range(second, first)
    git(clone.path, "checkout", "--quiet", "--orphan", "rewritten")
    third = commit(clone, "rewritten")
    with pytest.raises(BadInput, match="no commit in common"):
        clone.require_range(first, third)


def test_the_last_release_is_the_last_tag_behind_a_commit(clone):
    first = commit(clone)
    with pytest.raises(BadInput, match="no tag"):
        clone.last_release(commit(clone))
    git(clone.path, "tag", "v1.0.0", first)
    assert clone.last_release("main") == first


def test_the_last_releases_are_the_newest_first_and_fewer_than_asked_for_are_refused(clone):
    tagged = [commit(clone) for _ in range(3)]
    for number, one in enumerate(tagged):
        git(clone.path, "tag", f"v1.{number}.0", one)
    head = commit(clone)
    assert clone.last_releases(head, 2) == [tagged[2], tagged[1]]
    with pytest.raises(BadInput, match=r"3 tags are behind .* ask for fewer"):
        clone.last_releases(head, 4)


@pytest.mark.parametrize(
    ("subject", "number"),
    [("Fix a mask (#366)", "366"), ("Merge pull request #103 from a/b", "103"), ("Fix #12 quickly", ""), ("Words", "")],
)
def test_the_pull_request_is_read_from_the_subject(subject, number):
    assert pull_request(subject) == number


def test_a_merge_names_the_pull_request_of_what_it_brought_and_of_nothing_else(clone):
    first = commit(clone, "on main")
    git(clone.path, "switch", "--quiet", "--create", "branch")
    inside = commit(clone, "a\ttab in a branch")
    git(clone.path, "switch", "--quiet", "main")
    git(clone.path, "merge", "--quiet", "--no-ff", "--message=Merge pull request #7 from x", "branch")
    assert clone.details(inside, "main").pull_request == "7"
    assert clone.details(inside, "main").subject == "a\ttab in a branch"
    assert clone.details(first, "main").pull_request == ""


@pytest.fixture
def steps(own_cache, monkeypatch):
    """What a workshop has built and installed."""
    done = []

    def build(source, wheels):
        done.append("build")
        if (source / "pyproject.toml").read_text() == "broken":
            raise installer.InstallError("building failed:\n  a backend\n  does not like it")
        wheels.mkdir()
        wheel(
            wheels, ["transformers>=5.9"] + [line for line in (source / "pyproject.toml").read_text().split() if "=" in line]
        )

    def install(made, commit, python):
        done.append("install")
        record = {"era": installer.era_of(made), "packages": ["torch==2", "transformer-lens==0.0.0"]}
        (python_folder := installer.Path(python).parents[1]).mkdir(parents=True, exist_ok=True)
        (python_folder / RECORD_NAME).write_text(json.dumps(record))

    monkeypatch.setattr(installer, "build", build)
    monkeypatch.setattr(installer, "install", install)
    monkeypatch.setattr("tlbench.environments.workshop.create", lambda folder, _: folder.mkdir(parents=True))
    return done


def test_commits_with_equal_build_files_share_a_wheel_and_an_environment(clone, steps):
    commits = [commit(clone, transformer_lens__a_py=CODE * n) for n in (1, 2, 3)]
    workshop = Workshop(clone)
    assert len({workshop.environment(one).digest for one in commits}) == 1
    assert steps == ["build", "install"]
    assert Workshop(clone).environment(commits[0]).python.parent.parent.is_dir()
    assert steps == ["build", "install"]


def test_requirements_that_lead_to_the_same_packages_share_an_environment(clone, steps):
    first = commit(clone, transformer_lens__a_py=CODE)
    second = commit(clone, pyproject_toml="einops>=0.6")
    workshop = Workshop(clone)
    environments = {workshop.environment(one).python for one in (first, second)}
    assert len(environments) == 1
    assert steps == ["build", "install"] * 2
    assert len(list(next(iter(environments)).parents[2].glob("tl-deps-*/"))) == 1


def test_a_commit_that_does_not_build_says_why_and_is_tried_once(clone, steps):
    broken = commit(clone, transformer_lens__a_py=CODE, pyproject_toml="broken")
    workshop = Workshop(clone)
    for _ in range(2):
        with pytest.raises(CellFailed, match="a backend does not like it"):
            workshop.environment(broken)
    assert steps == ["build"]


def test_a_package_that_was_written_proves_itself(clone, steps, tmp_path):
    one = commit(clone, transformer_lens__a_py=CODE)
    workshop = Workshop(clone)
    workshop.write_package(one, workshop.environment(one), tmp_path / "package")
    record = json.loads((tmp_path / "package" / RECORD_NAME).read_text())
    assert record["commit"] == one
    assert record["package_digest"] == provenance.package_digest(tmp_path / "package" / PACKAGE)
    (tmp_path / "package" / PACKAGE / "a.py").write_text(CODE + " ")
    assert record["package_digest"] != provenance.package_digest(tmp_path / "package" / PACKAGE)


def test_a_commit_without_the_package_cannot_be_measured(clone, steps):
    empty = commit(clone)
    with pytest.raises(CellFailed, match="no folder transformer_lens"):
        Workshop(clone).environment(empty)


def test_the_release_behind_a_commit_and_the_first_that_has_it_are_named(clone):
    first = commit(clone, "first")
    git(clone.path, "tag", "v1")
    second = commit(clone, "second")
    assert (clone.release_behind(second), clone.release_with(second)) == ("v1", "")
    git(clone.path, "tag", "v2")
    assert (clone.release_behind(first), clone.release_with(second)) == ("v1", "v2")


def test_the_last_commit_in_two_histories_is_found_and_its_absence_is_a_sentence(clone):
    base = commit(clone, "base")
    main = commit(clone, "on main")
    git(clone.path, "switch", "--quiet", "--create", "branch", base)
    branch = commit(clone, "on a branch")
    assert clone.common(main, branch) == base
    git(clone.path, "switch", "--quiet", "--orphan", "other")
    with pytest.raises(BadInput, match="no commit in common"):
        clone.common(main, commit(clone, "alone"))
