"""Cores, memory and sandboxes of one node.

`manager` ties it together, `cores` chooses core ids (pure), `cgroup` writes limits, `sandbox/`
starts isolated process trees and talks to the agent inside each.
"""
