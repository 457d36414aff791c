"""What waits, from what the broker says."""

import pytest

from fraudscale.kafka.watermarks import Waiting


@pytest.mark.parametrize(
    ("low", "end", "committed", "lag"),
    [
        (0, 10, None, 10),  # nothing committed: all that is there waits
        (4, 10, None, 6),
        (0, 10, 7, 3),
        (8, 10, 3, 2),  # retention overtook the group
        (0, 10, 10, 0),
        (0, 5, 9, 0),  # the topic was made anew
    ],
)
def test_lag_counts_what_waits_and_is_never_negative(low, end, committed, lag):
    assert Waiting(low, end, committed).lag == lag
