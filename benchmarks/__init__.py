"""Side-by-side measurements that print ratios; never part of the tests."""
