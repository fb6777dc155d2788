"""Values that are costly to make, kept while they are used."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any


class Recent:
    """The values that were used last, within a bound; each is made once, whichever threads ask for it.

    Pickled it is left behind empty, and a forked process has locks of its own: those of its parent may be held by a
    thread that it does not have.

    Parameters
    ----------
    limit : int
        Of the sizes of all values; one that is larger is kept alone.
    size : callable, optional
        Size of a value; by default each counts 1.

    Examples
    --------
    >>> recent = Recent(2)
    >>> [recent.get(key, lambda made=made: made) for made, key in enumerate("abacb")]
    [0, 1, 0, 3, 4]
    """

    def __init__(self, limit: int, size: Callable[[Any], int] | None = None):
        self.limit = limit
        self.size = size
        self.values: OrderedDict[Hashable, Any] = OrderedDict()
        self._renew_locks()

    def __getstate__(self) -> dict[str, Any]:
        return {"limit": self.limit, "size": self.size, "values": OrderedDict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._renew_locks()

    def _renew_locks(self) -> None:
        """Start with locks that nobody holds.

        Examples
        --------
        >>> recent = Recent(1)
        >>> _ = recent.lock.acquire()
        >>> recent._renew_locks()
        >>> recent.lock.locked()
        False
        """
        self.pid = os.getpid()
        self.lock = threading.Lock()
        self.making: dict[Hashable, threading.Lock] = {}

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The value of a key, made when it is not there; other keys do not wait for it.

        Examples
        --------
        >>> recent = Recent(2)
        >>> recent.get("a", lambda: 5), recent.get("a", lambda: 6)
        (5, 5)
        """
        if self.pid != os.getpid():
            self._renew_locks()
        with self.lock:
            if key in self.values:
                self.values.move_to_end(key)
                return self.values[key]
            maker = self.making.setdefault(key, threading.Lock())
        with maker:
            with self.lock:
                if key in self.values:  # another thread made it in the meantime
                    return self.values[key]
            value = make()
            self._keep(key, value)
            return value

    def _keep(self, key: Hashable, value: Any) -> None:
        """Store a value and forget the oldest ones beyond the bound; the latest stays in any case.

        Examples
        --------
        >>> recent = Recent(5, size=len)
        >>> recent._keep("a", "xxx")
        >>> recent._keep("b", "xxxxxxxxx")
        >>> list(recent.values)
        ['b']
        """
        with self.lock:
            self.making.pop(key, None)
            self.values[key] = value
            while len(self.values) > 1 and sum(map(self.size or (lambda _: 1), self.values.values())) > self.limit:
                self.values.popitem(last=False)
