"""A recipe's cost: shapes, parameters, memory and FLOPs, without weights.

`counting.plan` builds the model on the meta device; `estimates` are what may be missing, `table` is the plan as data
and as text.
Whatever stands above it in docs/architecture.md may import it; it may import what stands below.
"""
