"""For the author of a piece: a new plugin (new), what a piece is (explain).

Commands import it; it imports plan, composing and data.
"""
