"""Measuring the forwarder beside the barest loop that could do the same work.

Absolute figures drift on shared machines: what counts is the ratio of two figures of one run, taken in
alternating order, medians over the rounds. ``python -m benchmarks`` runs all of it; see ``--help``.
"""
