"""Task leases over a clock that is an argument."""

from __future__ import annotations

from tangram.server.leases import TaskLeases


def test_a_lease_holds_for_its_length_and_expires_once() -> None:
    leases = TaskLeases(default_lease_s=10)
    leases.renew("coding", now=0.0)
    assert leases.holds("coding", 9.9)
    assert leases.expire(9.9) == []
    assert leases.expire(10.0) == ["coding"]
    assert leases.expire(10.0) == []
    assert not leases.holds("coding", 10.0)


def test_renewing_never_shortens_what_holds() -> None:
    leases = TaskLeases(default_lease_s=10)
    leases.renew("coding", now=0.0, lease_s=100.0)
    leases.renew("coding", now=1.0, lease_s=5.0)
    assert leases.holds("coding", 99.0)


def test_a_call_without_a_length_renews_by_the_length_that_was_named_last() -> None:
    leases = TaskLeases(default_lease_s=10)
    leases.renew("coding", now=0.0, lease_s=2.0)
    leases.renew("coding", now=1.0)
    assert leases.expire(3.0) == ["coding"]
