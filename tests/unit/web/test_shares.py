"""Who has most places, against a count of all of them."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from fraudscale.web.shares import Shares

STEPS = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 5), st.booleans()), max_size=80)


@given(STEPS)
def test_the_shares_are_those_that_a_count_finds(steps):
    shares, held = Shares(), []
    for client, place, is_added in steps:
        if is_added:
            if (client, place) not in held:
                held.append((client, place))
                shares.add(client, place)
        else:
            assert shares.drop(client, place) == ((client, place) in held)
            held = [one for one in held if one != (client, place)]
        count = Counter(client for client, _ in held)
        most = max(count.values(), default=0)
        for name in "abcd":
            assert shares.of(name) == count[name]
            greediest = shares.greediest_but(name)
            if count[name] + 1 >= most:
                assert greediest is None
            else:
                assert count[greediest] == most
            if count[name]:
                assert (name, shares.latest_of(name)) == next(one for one in held[::-1] if one[0] == name)


def test_a_client_without_a_place_is_forgotten():
    shares = Shares()
    for client in "abc":
        shares.add(client, 1)
        shares.drop(client, 1)
    assert (shares._places, shares._clients_with) == ({}, {})
