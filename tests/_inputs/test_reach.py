"""A walk through what a function can reach."""

from torchjac._inputs.reach import Walk


def test_a_walk_gives_up_on_too_many_objects():
    walk = Walk(())
    walk.visit([[k] for k in range(6_000)])
    assert not walk.is_complete
