"""A recipe: from an expression to settled pieces, wires, stages and settings.

`composition.compose` takes the steps one by one: choosing, wiring, staging, settling. Below them: what is installed
(plugins), what a piece reads and gives (contract, from its class; sketch, from its source), who feeds whom (resolve,
unify), the order of stages (curriculum), the recipe file. No weights and no films.
Whatever stands above it in docs/architecture.md may import it; it may import what stands below.
"""
