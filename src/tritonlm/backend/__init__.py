"""The models of the repository as Triton sees them: the only importers of pb_utils."""
