"""Runs beside each other: what differs between them, which is best, and what decided it.

`read` finds runs and studies, `gather` ranks them into a `Comparison`, `console_table` and `page`
show it. Optuna is imported only where a folder holds a study or importances are asked for.
"""
