"""The bins that live values are compared with."""

import numpy as np
import pytest

from fraudscale.scoring.drift import reference_bins


def test_bins_hold_about_equal_shares():
    bins = reference_bins(np.arange(1000, dtype=np.float64))
    assert len(bins.edges) == 9
    assert bins.ratios == pytest.approx([0.1] * 10, abs=0.002)


def test_a_value_at_an_edge_belongs_to_the_bin_below_it():
    bins = reference_bins(np.array([1.0, 2.0, 2.0, 2.0, 3.0]), bins=2)
    assert (bins.edges, bins.ratios) == ((2.0,), (0.8, 0.2))


def test_equal_values_make_fewer_bins():
    bins = reference_bins(np.array([5.0] * 100))
    assert (bins.edges, bins.ratios) == ((5.0,), (1.0, 0.0))
