"""Hydra's plugins of vitfw: `hydra/sweeper=optuna` and `hydra/launcher=process`.

Hydra imports every module here at each start, but for those that begin with `_`: the others
import nothing large before they are used.
"""
