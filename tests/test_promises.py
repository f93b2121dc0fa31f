"""Questions that only `verify` asks, of made-up models whose faults have a known size."""

from types import SimpleNamespace

import pytest
import torch

from tlbench.checkpoints import prompts
from tlbench.checkpoints.inputs import Inputs
from tlbench.exceptions import CellFailed, NotApplicable
from tlbench.grid import Cell
from tlbench.lens.interface import Lens, Switch
from tlbench.metrics.agreement import cross_entropy, largest_difference
from tlbench.questions import accessors, causality, loss, padding
from tlbench.reference import huggingface

CELL = Cell("made-up", "float32", "unprocessed", "TransformerBridge")
IDS = torch.tensor([[1, 2, 3, 0], [3, 2, 1, 0]])
VOCABULARY = 5


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def two_logits(z):
    """Logits z and -z at each position, which centring leaves as they are."""
    return torch.stack([z, -z], -1).double()


# What should agree ----------------------------------------------------------------------------------------------------


def test_a_shift_of_logits_is_no_difference_and_one_of_activations_is():
    z = draw(2, 3, 4).double()
    assert largest_difference(z + 1, z) == pytest.approx(0, abs=1e-12)
    assert largest_difference(z + 1, z, centre=False) == pytest.approx(1)


def test_what_is_not_finite_differs_infinitely():
    assert largest_difference(torch.full((1, 1, 2), torch.nan), torch.zeros(1, 1, 2)) == torch.inf


def test_another_shape_is_a_failure():
    with pytest.raises(CellFailed, match=r"\[1, 2, 3\]: expected \[1, 3, 3\]"):
        largest_difference(torch.zeros(1, 2, 3), torch.zeros(1, 3, 3))


def test_the_cross_entropy_of_even_logits_is_the_logarithm_of_their_number():
    assert torch.allclose(cross_entropy(torch.zeros(2, 4, 8), IDS), torch.full((2, 3), 8.0).log().double())


# Causality ------------------------------------------------------------------------------------------------------------


def test_a_causal_model_does_not_leak_and_another_does_at_its_size():
    assert causality._leak(lambda ids: two_logits(ids.cumsum(-1)), IDS) == 0
    # The last token becomes 1, and a quarter of it reaches every position.
    assert causality._leak(lambda ids: two_logits(ids + 0.25 * ids[:, -1:]), IDS) == 0.25


def test_a_model_that_cannot_be_wrapped_leaves_the_rest(monkeypatch):
    monkeypatch.setattr(huggingface, "tokens", lambda checkpoint, name: IDS)
    monkeypatch.setattr(huggingface, "load_model", lambda *_: None)
    lens = Lens(lambda ids: two_logits(ids.cumsum(-1)), 0, None, steps=None, greedy=None, process=None)
    found = causality.measure_causality(CELL, (SimpleNamespace(folder=None), lens))
    assert (found.last_token, found.given_last_token, found.given_logits) == (0, None, None)
    assert found.reasons["given_logits"].startswith("n/a: ")


# Loss and padding -----------------------------------------------------------------------------------------------------


def test_the_loss_is_compared_in_nats(monkeypatch):
    monkeypatch.setattr(huggingface, "tokens", lambda checkpoint, name: IDS)
    monkeypatch.setattr(huggingface, "reference_logits", lambda *_: {"natural": torch.zeros(2, 4, VOCABULARY)})
    exact = torch.full((2, 3), float(VOCABULARY)).log()

    def tl_loss(ids, per_token=False):
        return exact + torch.tensor([[0.0, 0.0, 0.5], [0.0] * 3]) if per_token else exact.mean() + 0.25

    found = loss.measure_loss(CELL, (None, SimpleNamespace(inputs=Inputs(), loss=tl_loss)))
    assert found.mean == pytest.approx(0.25)
    assert found.per_token == pytest.approx(0.5)


def test_a_loss_of_another_shape_is_a_failure(monkeypatch):
    monkeypatch.setattr(huggingface, "tokens", lambda checkpoint, name: IDS)
    monkeypatch.setattr(huggingface, "reference_logits", lambda *_: {"natural": torch.zeros(2, 4, VOCABULARY)})
    found = loss.measure_loss(
        CELL, (None, SimpleNamespace(inputs=Inputs(), loss=lambda ids, per_token=False: torch.zeros(2, 4).sum(0)))
    )
    assert found.per_token is None
    assert "expected [2, 3]" in found.reasons["per_token"]


def test_padding_stands_on_its_side_and_only_there_is_the_mask_0():
    alone = [torch.ones(1, padding.SHORT, dtype=torch.long), torch.ones(1, padding.LONG, dtype=torch.long)]
    for left in (True, False):
        ids, mask = padding._batch(alone, left=left)
        assert torch.equal(ids, mask)
        pads = padding.LONG - padding.SHORT
        assert mask[0].tolist() == ([0] * pads + [1] * padding.SHORT if left else [1] * padding.SHORT + [0] * pads)
        assert mask[1].all()


def test_the_tokens_from_the_first_that_differs_are_counted():
    def greedy(ids, n):
        return torch.cat([ids, torch.zeros(len(ids), n, dtype=torch.long)], -1)

    def masked(ids, mask, n):
        together = greedy(ids, n)
        together[0, -3] = 1
        return together

    alone = [torch.ones(1, padding.SHORT, dtype=torch.long), torch.ones(1, padding.LONG, dtype=torch.long)]
    assert padding._generated(SimpleNamespace(greedy=greedy, masked_greedy=masked), alone) == 3
    assert padding._generated(SimpleNamespace(greedy=greedy, masked_greedy=lambda i, m, n: greedy(i, n)), alone) == 0


def test_texts_in_a_list_are_compared_with_each_alone_and_ids_that_were_drawn_have_none():
    def greedy(texts, n):
        padded = len(texts) > 1  # as if padding moved the last token of the shorter text
        return torch.tensor([[0] * (n - 1) + [int(padded and text is padding.TEXTS[0])] for text in texts])

    lens = SimpleNamespace(greedy=greedy)
    assert padding._listed(lens, prompts.Prompts((), ())) == 1
    with pytest.raises(NotApplicable, match="no texts: its tokenizer has id 9"):
        padding._listed(lens, prompts.Prompts((), (), "its tokenizer has id 9"))


# Switches -------------------------------------------------------------------------------------------------------------


def test_a_switch_is_off_again_even_after_an_error_and_one_that_is_missing_is_not_applicable():
    calls = []
    model = SimpleNamespace(set_use_attn_in=calls.append)
    lens = Lens(None, 0, model, steps=None, greedy=None, process=None)
    with pytest.raises(ZeroDivisionError), lens.switched(Switch.ATTN_IN):
        1 / 0  # noqa: B018
    assert calls == [True, False]
    with pytest.raises(NotApplicable), lens.switched(Switch.ATTN_RESULT):
        pass


# Accessors ------------------------------------------------------------------------------------------------------------

N_HEADS, D_HEAD, D_MODEL = 2, 3, 6


@pytest.fixture
def world(monkeypatch, tmp_path):
    """A model of one block: HuggingFace's parameters, and TransformerLens's accessors of them."""
    own = torch.nn.Module()
    own.block = torch.nn.ModuleList([torch.nn.Module()])
    for seed, name in enumerate(("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "gate_proj")):
        linear = torch.nn.Linear(D_MODEL, N_HEADS * D_HEAD)
        linear.weight.data, linear.bias.data = draw(N_HEADS * D_HEAD, D_MODEL, seed=seed), draw(6, seed=seed + 50)
        setattr(own.block[0], name, linear)
    own.embed = torch.nn.Embedding(7, D_MODEL)
    own.get_input_embeddings = lambda: own.embed
    monkeypatch.setattr(huggingface, "load_model", lambda *_: own)

    def heads(name):
        return getattr(own.block[0], name).weight.data.reshape(N_HEADS, D_HEAD, D_MODEL).transpose(1, 2)[None].clone()

    weights = {"W_E": own.embed.weight.data.clone(), "W_in": own.block[0].up_proj.weight.data.T[None].clone()}
    weights |= {f"W_{letter.upper()}": heads(f"{letter}_proj") for letter in "qkv"}
    weights |= {f"b_{letter.upper()}": getattr(own.block[0], f"{letter}_proj").bias.data[None].clone() for letter in "qkv"}
    return weights


def wrong_of(weights):
    def weight(name):
        if name not in weights:
            raise NotApplicable(f"no {name}")
        return weights[name]

    def product(name):
        raise NotApplicable(f"no {name}")

    lens = SimpleNamespace(weight=weight, product=product, n_blocks=1, blocks=["blocks.0"])
    return accessors.measure_accessors(CELL, (SimpleNamespace(folder=None), lens))


def test_the_checkpoint_s_own_weights_are_right_and_what_is_missing_is_not_compared(world):
    found = wrong_of(world)
    assert found.wrong == {}
    assert set(found.compared) == {"W_E", "W_Q", "W_K", "W_V", "W_in"}
    assert found.reasons["W_O"] == "no W_O"


@pytest.mark.parametrize(
    ("name", "change", "fault"),
    [
        ("W_Q", lambda own, world: own * (1 + 2**-20), "not the checkpoint's weights"),
        ("W_Q", lambda own, world: own.flip(1), "in another order"),
        ("W_Q", lambda own, world: own.flip(3), "in another order"),
        ("W_V", lambda own, world: world["W_K"], "the weights of k_proj"),
        ("b_K", lambda own, world: own.flip(1), "b_K is not the checkpoint's bias"),
        ("W_E", lambda own, world: own.flip(0), "in another order"),
        ("W_E", lambda own, world: own.roll(1, 1), "not the checkpoint's weights"),
    ],
)
def test_what_is_not_the_checkpoint_s_is_named(world, name, change, fault):
    changed = wrong_of({**world, name: change(world[name], world)})
    (named,) = changed.wrong
    assert named == name.replace("b_", "W_")
    assert fault in changed.wrong[named]


def test_expanded_keys_and_a_scaled_embedding_are_right(world):
    doubled = {
        "W_K": world["W_K"].repeat_interleave(2, 1),
        "b_K": world["b_K"].reshape(1, N_HEADS, -1).repeat_interleave(2, 1),
    }
    assert wrong_of({**world, **doubled, "W_E": world["W_E"] * 8}).wrong == {}


def test_processed_weights_are_not_compared():
    with pytest.raises(NotApplicable):
        accessors.measure_accessors(Cell("made-up", "float32", "fold_ln", "TransformerBridge"), (None, None))


@pytest.mark.parametrize(
    ("parameter", "block", "is_in"),
    [
        ("model.layers.2.mlp.up_proj.weight", "blocks.2", True),
        ("model.layers.2.mlp.up_proj.weight", "blocks.1", False),
        ("encoder.block.1.layer.0.SelfAttention.q.weight", "encoder_blocks.1", True),
        ("encoder.block.1.layer.0.SelfAttention.q.weight", "encoder_blocks.0", False),
        ("encoder.block.1.layer.0.SelfAttention.q.weight", "decoder_blocks.1", False),
    ],
)
def test_a_parameter_belongs_to_the_block_of_its_own_stack(parameter, block, is_in):
    assert accessors._is_in(parameter, block) is is_in
