"""Studies on disk: collections imported, films and reports read.

`study` says what a study is, `write` makes a data folder, `importing` reads a collection by its module.
Whatever stands above it in docs/architecture.md may import it; it may import what stands below.
"""
