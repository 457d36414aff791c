"""Reference bins: how a quantity is distributed when the model is trained, kept with the model for comparison."""

import numpy as np
import numpy.typing as npt

from fraudscale.scoring.model import Bins


def reference_bins(values: npt.NDArray[np.floating], bins: int = 10) -> Bins:
    """Cut values into bins of about equal share, fewer where many values are equal.

    Args:
        values: shape (n,), finite, n ≥ 1.
        bins: wanted number of bins.
    """
    quantiles = np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1])
    edges = np.unique(quantiles.astype(np.float64))
    counts = np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1)
    return Bins(tuple(edges.tolist()), tuple((counts / len(values)).tolist()))
