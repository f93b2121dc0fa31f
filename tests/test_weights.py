"""Whether processing changed a weight is read back from the weights."""

import torch

from tlbench.lens import weights


def test_only_differing_tensors_that_stand_on_both_sides_are_counted():
    before = {"W": torch.ones(2, 3), "b": torch.zeros(3), "gain": torch.ones(3), "mask": torch.tensor([True])}
    after = {"W": torch.ones(2, 3) * 2, "b": torch.zeros(3), "mask": torch.tensor([False])}
    marks = [weights.fingerprints(state, torch.float32) for state in (before, after)]
    assert weights.changed(*marks) == 1


def test_one_unit_in_the_last_place_is_a_change():
    x = torch.ones(4)
    y = x.clone()
    y[2] = torch.nextafter(y[2], torch.tensor(2.0))
    marks = [weights.fingerprints({"W": w}, torch.float32) for w in (x, y)]
    assert weights.changed(*marks) == 1


def test_values_are_compared_at_the_model_s_dtype():
    x = torch.tensor([1.0001])
    marks = [weights.fingerprints({"W": w}, torch.float16) for w in (x, x.half())]
    assert weights.changed(*marks) == 0
    assert not weights.changed(
        weights.fingerprints({"W": x.t()}, torch.float32), weights.fingerprints({"W": x}, torch.float32)
    )
