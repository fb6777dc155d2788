"""Values that are kept while they are used."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from utils.runtime.recent import Recent


def test_what_many_threads_want_is_made_once_and_never_lost():
    made: list[int] = []
    roomy, tight = Recent(50), Recent(1)
    keys = [index % 7 for index in range(400)]
    with ThreadPoolExecutor(8) as pool:
        for recent in (roomy, tight):
            values = pool.map(lambda key, recent=recent: recent.get(key, lambda: made.append(key) or key * 10), keys)
            assert list(values) == [key * 10 for key in keys]
    assert sorted(made[:7]) == list(range(7))
    assert (len(roomy.values), len(tight.values)) == (7, 1)
