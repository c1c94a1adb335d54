"""Property tests share their cores with others: no deadline for a single example."""

from hypothesis import settings

settings.register_profile("shared_cores", deadline=None)
settings.load_profile("shared_cores")
