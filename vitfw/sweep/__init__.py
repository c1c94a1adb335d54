"""A search over configs: its space, its study, and the loop that asks, launches and tells."""
