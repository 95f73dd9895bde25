"""Training: a Trainer run per stage, and ablation tables.

`training` takes the stages in turn, `trainer` is one stage's, `sampling` and `augment` serve it; `ablate` runs tables.
Whatever stands above it in docs/architecture.md may import it; it may import what stands below.
"""
