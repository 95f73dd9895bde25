"""The composed model: signals, injected modules, the language model, losses.

`model` is its forward and its stages, `roles` what each piece does in a stage, `making` how its module is made,
`inject` the decoder's layers, `weights` the files. A new family of language models is a file in `hosts`.
Whatever stands above it in docs/architecture.md may import it; it may import what stands below.
"""
