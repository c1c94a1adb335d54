"""The pooled features of a frozen net, for a linear probe and for nearest neighbours."""

from vitfw.features.compute import compute_features
from vitfw.features.data_module import data_to_fit

__all__ = ["compute_features", "data_to_fit"]
