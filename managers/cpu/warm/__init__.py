"""Sandboxes that are started ahead of need: how many (`sizing`), when not (`backoff`), and the pool
that owns them until a trajectory gets one (`pool`).
"""
