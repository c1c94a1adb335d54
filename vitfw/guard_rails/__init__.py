"""Before training: a check of what will not work, from the plain facts of the run."""
