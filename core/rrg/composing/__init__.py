"""A recipe: from an expression to settled pieces, wires, stages and settings.

What is installed (plugins), what a piece reads and gives (contract, from its class; sketch, from its source), who feeds
whom (resolve, unify), the order of stages (curriculum), and the recipe file. No weights and no films. Whatever builds,
trains or prints imports it; it imports core's pieces and the top.
"""
