"""What is wrong does not pass and what is healthy is not accused: inputs on each of which a verdict was once wrong."""

import json
import shutil

import pytest

from tests.e2e import cases
from tests.e2e.test_verify import verify
from tlbench import catalogue
from tlbench.checkpoints import ensure
from tlbench.reference.golden import MEMORY_VARIABLE

NEWEST, EARLIER = "4.3.0", "3.5.1"
RIGHT = {"exact", "same rounding", "benign", "no-op"}


def verdicts(folder, tl, *words, wrapper="TransformerBridge", **environment):
    """Exit status, and every configuration by dtype and option."""
    done = verify(folder, "--tl", tl, "--wrapper", wrapper, "--question", "logits", "--json", *words, **environment)
    assert done.returncode in (0, 1, 3), done.stderr
    cells = json.loads(done.stdout)["cells"]
    return done.returncode, {(cell["dtype"], cell["option"]): cell for cell in cells}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cases")
    return lambda name: folder / name if (folder / name).exists() else cases.make(name, folder)


def words_of(found):
    return {option: cell["verdict"] for (_, option), cell in found.items()}


@pytest.mark.parametrize("name", ["nemotron", "qwen3next", "falcon-alibi"])
def test_a_healthy_model_whose_golden_was_once_refused_is_judged_by_it_and_right_at_every_dtype(made, name):
    options = ("--option", "unprocessed", "--option", "all_options")
    status, found = verdicts(made(name), NEWEST, *options)
    assert {cell["judged_by"] for cell in found.values()} == {"golden"}
    assert {cell["golden"] for cell in found.values()} == {"float64"}
    assert {cell["verdict"] for cell in found.values()} <= RIGHT
    assert status == 0


def test_gpt_oss_with_its_value_biases_folded_is_broken_or_fails_and_is_right_without(made):
    """Attention with sinks does not sum to one, so that folding value biases is no identity."""
    status, found = verdicts(made("gptoss"), NEWEST, "--dtype", "float32")
    words = words_of(found)
    assert words["all_options"] == "broken"
    assert 4 < found["float32", "all_options"]["max"] < 5
    assert words["fold_value_biases"] == "failed"
    assert {words[option] for option in words if option not in ("all_options", "fold_value_biases")} <= RIGHT
    assert status == 1


def test_gpt_oss_without_its_sinks_is_broken_whatever_the_option(made):
    status, found = verdicts(made("gptoss"), EARLIER, "--dtype", "float32", "--option", "unprocessed")
    assert words_of(found) == {"unprocessed": "broken"}
    assert 7 < found["float32", "unprocessed"]["max"] < 8
    assert status == 1


@pytest.mark.parametrize(
    ("name", "tl", "word", "size"),
    [
        ("gpt2-unscaled", NEWEST, "broken", 24.06),
        ("llama-dropout", EARLIER, "broken", 6.75),
        ("falcon-rotary", NEWEST, "failed", 0),
    ],
)
def test_a_flag_that_transformerlens_ignores_and_an_architecture_that_it_cannot_load_do_not_pass(made, name, tl, word, size):
    status, found = verdicts(made(name), tl, "--dtype", "float32", "--option", "unprocessed", "--option", "all_options")
    assert set(words_of(found).values()) == {word}
    assert status == 1
    if size:
        assert found["float32", "unprocessed"]["max"] == pytest.approx(size, rel=0.2)


# Without a golden -----------------------------------------------------------------------------------------------------

NO_GOLDEN = {MEMORY_VARIABLE: "1"}


@pytest.fixture(scope="module")
def tree(plants):
    return plants("planted_fault")


@pytest.fixture(scope="module", params=["zoo-gpt2", "zoo-llama-gqa"])
def unknown(request, tmp_path_factory):
    """A folder that no catalogue knows and of which no golden is kept: it has token ids of its own."""
    models = catalogue.load()
    folder = tmp_path_factory.mktemp("models") / request.param
    shutil.copytree(ensure(models.get(request.param), models).folder, folder)
    prompts = json.loads((folder / "prompts.json").read_text())
    (folder / "prompts.json").write_text(json.dumps({**prompts, "natural": prompts["natural"][::-1]}))
    return folder


def test_without_a_golden_a_fault_of_a_thousandth_in_one_weight_does_not_pass_where_huggingface_s_rounding_is_smaller(
    tree, unknown
):
    settings = {**NO_GOLDEN, **tree.settings}
    words = ("--option", "all_options")
    tree.plant("")
    status, healthy = verdicts(unknown, tree.folder, *words, **settings)
    assert status == 0
    assert {cell["verdict"] for cell in healthy.values()} <= RIGHT
    assert {cell["judged_by"] for cell in healthy.values()} == {"HuggingFace"}
    assert {cell["golden"] for cell in healthy.values()} == {None}
    tree.plant("head scale")
    status, faulty = verdicts(unknown, tree.folder, *words, **settings)
    assert status == 1
    size = faulty["float32", "all_options"]["closeness"]["distance_rms"]  # float32's own rounding is 1e-6 of it
    assert size > 1e-4
    smaller = {key for key, cell in faulty.items() if 3 * cell["closeness"]["spread_rms"] < size}
    assert {dtype for dtype, _ in smaller} >= {"float32"}
    assert not {key for key in smaller if faulty[key]["verdict"] in RIGHT}
