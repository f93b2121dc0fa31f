"""Runs the canaries of TransformerLens, which are in tools/canaries_of_tl.py, in environments of their own."""

import pytest

RELEASES = ("2.18.0", "4.3.0")
"""One with HookedTransformer and one with TransformerBridge."""


@pytest.mark.slow
@pytest.mark.parametrize("release", RELEASES)
def test_no_canary_of_transformer_lens_fails(release):
    from tlbench.environments import lens_environment
    from tools.canaries import check_transformer_lens

    report = check_transformer_lens(lens_environment(release).python)
    assert not report.failures, "\n".join(report.failures)
    assert report.count
    assert report.versions["transformer-lens"] == release
