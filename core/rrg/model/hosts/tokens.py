"""A tokenizer against its model, before anything is trained or written: each mismatch is one clear error."""

from typing import Any

from rrg.config import HostConfig
from rrg.errors import UsageError

KNOWN_WORDS = "the heart and lungs are normal"


def check_tokenizer(config: HostConfig, tokenizer: Any, model: Any) -> list[str]:
    """Notes on control tokens beyond the embeddings that nothing needs, as Gemma 3 1B's image token: texts lose them,
    and a pad token among them gives way to the end token, since padding is masked.

    Raises UsageError where a tokenizer has no end token, knows no plain word, or where the model has no embedding for
    a token that texts are made of, the prompt holds, or the tokenizer begins or ends with.
    """
    host, rows = f"host {config.name}", int(model.get_input_embeddings().weight.shape[0])
    if tokenizer.eos_token_id is None:
        raise UsageError(
            f"{host}: its tokenizer has no end token, so a report would never end; set eos_token in the folder's "
            "tokenizer_config.json"
        )
    special = set(tokenizer.all_special_ids) | {
        number for number, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    plain = tokenizer(KNOWN_WORDS).input_ids
    if not set(plain) - special:
        raise UsageError(f"{host}: its tokenizer knows no plain word; are the tokenizer's files missing?")
    words = {number: token for token, number in tokenizer.get_vocab().items() if number >= rows}
    used = {tokenizer.eos_token_id, *plain}
    for text in (config.prompt, config.film, config.exemplar):
        used |= set(tokenizer(text).input_ids)
    needed = sorted(number for number in words if number in used or number not in special)
    if needed:
        number = needed[-1]
        some = f"{len(needed)} tokens, up to" if len(needed) > 1 else "the token"
        raise UsageError(
            f"{host}: its tokenizer has {some} {words[number]!r} of the id {number}, but the model has embeddings for "
            f"0 to {rows - 1} alone; give the model's own tokenizer, or save the model with "
            f"resize_token_embeddings({number + 1})"
        )
    notes = [f"{host} has no embedding for {', '.join(sorted(words.values()))}: texts lose them"] if words else []
    pad = tokenizer.pad_token_id
    if pad is None or pad >= rows:
        notes.append(f"{host} has no pad token: rows are filled with its end token, and masked")
    return notes
