"""A recipe's cost: shapes, parameters, memory and FLOPs, without weights.

It builds the model on the meta device. Commands import it; it imports model and composing.
"""
