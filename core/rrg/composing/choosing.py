"""Which pieces an expression means, and which are left out."""

from rrg.composing import grammar, resolve
from rrg.composing.draft import Draft
from rrg.composing.registry import registry


def choose(draft: Draft, expression: str) -> None:
    """Resolve the terms to pieces, less the dropped ones."""
    brought: dict[str, str] = {}
    for term in grammar.parse(expression):
        alias = registry()["aliases"].get(term)
        for part in grammar.parse(alias) if alias else [term]:
            answer = resolve.pieces_of(part, draft.plugins)
            if isinstance(answer, str):
                draft.problems.append(answer)
                continue
            twice = [piece.name for piece in answer if piece.name in brought]
            draft.problems += [f"{n} comes twice, with {brought[n]} and with {term}; give it once" for n in twice]
            brought |= {piece.name: term for piece in answer}
            draft.add(piece.name for piece in answer)


def check_drops(draft: Draft, asked: set[str]) -> None:
    for name in sorted(asked - draft.dropped):
        draft.problems.append(f"--drop {name}: not in this composition{resolve.did_you_mean(name, draft.chosen)}")
