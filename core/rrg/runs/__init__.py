"""A run folder: the names of its files, run.json, the environment.

`folder` is the only place that knows these names; `environment` says what a run depended on besides its recipe.
Whatever stands above it in docs/architecture.md may import it; it may import what stands below.
"""
