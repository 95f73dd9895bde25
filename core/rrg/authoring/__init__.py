"""For the author of a piece: a new plugin (`new`, from `templates`), what a piece is (`explain`).

Whatever stands above it in docs/architecture.md may import it; it may import what stands below.
"""
