"""Task leases over a clock that is an argument."""

from __future__ import annotations

from tangram.server.leases import TaskLeases


def test_a_lease_holds_for_its_length_and_keeps_the_task_alive() -> None:
    leases = TaskLeases(default_lease_s=10)
    leases.renew("coding", now=0.0, lease_s=5.0)
    assert leases.leased("coding", 4.9) and leases.alive("coding", 4.9)
    assert not leases.leased("coding", 5.0) and not leases.alive("coding", 5.0)


def test_a_sign_of_life_keeps_trajectories_but_is_no_lease() -> None:
    leases = TaskLeases(default_lease_s=10)
    leases.touch("coding", now=0.0)
    assert leases.alive("coding", 9.9) and not leases.leased("coding", 0.0)
    assert not leases.alive("coding", 10.0)


def test_renewing_never_shortens_what_holds() -> None:
    leases = TaskLeases(default_lease_s=10)
    leases.renew("coding", now=0.0, lease_s=100.0)
    leases.renew("coding", now=1.0, lease_s=5.0)
    assert leases.leased("coding", 99.0)


def test_forgetting_the_past_leaves_what_holds() -> None:
    leases = TaskLeases(default_lease_s=10)
    leases.renew("gone", now=0.0, lease_s=1.0)
    leases.renew("held", now=0.0, lease_s=100.0)
    leases.touch("held", now=0.0)
    leases.forget_past(50.0)
    assert leases.alive("held", 50.0) and not leases.alive("gone", 50.0)
