"""Measurements behind figures: one file a suite of `vitfw benchmark`.

Each suite has `RESULT`, the name of its JSON file; `measure`, which returns the figures; and
`table`, which shows them.
"""
