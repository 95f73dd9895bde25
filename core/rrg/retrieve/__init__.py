"""The retrieval index, its search, and the choice of reference reports.

`index` builds, saves and searches; `references` chooses the report of another study that S2D-Align shows.
Whatever stands above it in docs/architecture.md may import it; it may import what stands below.
"""
