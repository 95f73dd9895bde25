"""A run folder: the names of its files, run.json, the environment.

The only place that knows these names. Whoever reads or writes a run imports it; it imports composing and data.
"""
