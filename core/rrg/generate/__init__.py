"""Writing reports: a trained run opened, reports of films and of splits.

`reporter.load` opens a run; `predictions` writes a split's reports and has them scored; `refine` cleans key phrases.
Whatever stands above it in docs/architecture.md may import it; it may import what stands below.
"""
