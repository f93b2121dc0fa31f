"""One entry adds a model; a malformed one says which field."""

import pytest

from tlbench import BadInput, catalogue
from tlbench.catalogue import Source

GOOD = '[[model]]\nname = "mine"\nsource = "local"\npath = "models/mine"\n'


def test_the_embedded_catalogue_has_the_zoo_smollm2_and_hub_models():
    models = catalogue.load(catalogue.package_dir() / "catalogue.toml").models
    assert sum(model.source is Source.ZOO for model in models) >= 14
    assert {"smollm2-135m", "gpt2", "mistral-7b"} <= {model.name for model in models}


def test_a_local_path_is_taken_from_the_catalogue_s_folder(write_catalogue, tmp_path):
    assert write_catalogue(GOOD).get("mine").path == str(tmp_path / "models" / "mine")


def test_an_unknown_model_is_refused_with_the_known_ones(write_catalogue):
    with pytest.raises(BadInput, match=r"unknown model 'yours': choose one of mine, or add it to"):
        write_catalogue(GOOD).get("yours")


def test_of_many_models_the_nearest_are_named():
    embedded = catalogue.load(catalogue.package_dir() / "catalogue.toml")
    with pytest.raises(BadInput, match=r"unknown model 'SmolLM2': the nearest: smollm2-135m, .*or add it to"):
        embedded.get("SmolLM2")


def test_what_a_name_does_not_say_is_said():
    embedded = catalogue.load(catalogue.package_dir() / "catalogue.toml")
    assert embedded.get("smollm2-135m").about == "SmolLM2-135M-Instruct, dequantized from Q4_1"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('[[model]]\nsource = "zoo"\nfamily = "gpt2"\n', "entry 1 .*missing field 'name'"),
        ('[[model]]\nname = "a"\nfamily = "gpt2"\n', "missing field 'source'"),
        ('[[model]]\nname = "a"\nsource = "zoo"\n', "missing field 'family', which source 'zoo' requires"),
        ('[[model]]\nname = "a"\nsource = "config"\n', "missing field 'model_type', which source 'config' requires"),
        ('further = "more.toml"\n' + GOOD, r"cannot read the catalogue .*more.toml .*: restore it, or remove `further`"),
        ('[[model]]\nname = "a"\nsource = "pypi"\npackages = ["p"]\n', "missing field 'version'"),
        (
            '[[model]]\nname = "a"\nsource = "config"\nmodel_type = "bert"\ntask = "cloze"\n',
            "unknown task 'cloze': expected one of causal, encoder-decoder, masked",
        ),
        ('[[model]]\nname = "a"\nsource = "ftp"\n', "unknown source 'ftp': expected one of zoo, config, pypi, hub, local"),
        (GOOD + "threads = 0\n", "invalid threads = 0: expected at least 1"),
        (GOOD + 'threads = "two"\n', "invalid threads = 'two': expected type int"),
        (GOOD + "thread = 2\n", "unknown field 'thread'"),
        (GOOD + "by_name = 1\n", "invalid by_name = 1: expected type bool"),
        (GOOD + GOOD, "duplicate name 'mine'"),
        (GOOD.replace("mine", "a/b", 1), "invalid name: expected only letters"),
        ("", "no \\[\\[model\\]\\] entry"),
        ("[[model", "invalid TOML"),
    ],
)
def test_a_malformed_entry_is_refused_naming_entry_and_field(write_catalogue, text, named):
    with pytest.raises(BadInput, match=named):
        write_catalogue(text)


def test_a_model_by_name_is_in_no_grid_and_no_command_over_all_models(write_catalogue, monkeypatch):
    text = GOOD + GOOD.replace('"mine"', '"large"') + "by_name = true\n"
    loaded = write_catalogue(text)
    assert (loaded.names(), loaded.get("large").name) == (["mine"], "large")
    monkeypatch.setenv("TLBENCH_FURTHER", "1")
    assert catalogue.load().names() == ["mine"]
    assert [model.name for model in catalogue.load().every] == ["mine"]


def test_weights_with_terms_of_their_own_are_fetched_only_by_name():
    embedded = catalogue.load(catalogue.package_dir() / "catalogue.toml")
    assert [model.name for model in (*embedded.every, *embedded.by_name) if model.terms] == ["gemma3-270m"]
    assert "gemma3-270m" not in embedded.names()


def test_a_missing_catalogue_is_refused_naming_the_variable(tmp_path):
    with pytest.raises(BadInput, match="TLBENCH_CATALOGUE"):
        catalogue.load(tmp_path / "none.toml")


def test_a_model_is_loadable_in_hookedtransformer_if_it_has_an_official_name_there(tmp_path):
    path = tmp_path / "models.toml"
    path.write_text(
        """
        [[model]]
        name = "both"
        source = "zoo"
        family = "gpt2"
        hooked_name = "gpt2"

        [[model]]
        name = "bridge-only"
        source = "zoo"
        family = "stablelm"
        """
    )
    found = catalogue.load(path).loadable()
    assert found == ["both HookedTransformer", "both TransformerBridge", "bridge-only TransformerBridge"]
