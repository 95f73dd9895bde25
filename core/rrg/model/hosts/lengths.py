"""How many positions a host reads: by its configuration, by a table of positions, within a sliding window."""

from typing import Any, NamedTuple

from torch import nn

from rrg.errors import UsageError


class Lengths(NamedTuple):
    """trained: positions of the configuration. table: whether they are rows of a table (learnt, or computed once), so
    that there is nothing behind the last. window: positions that a layer with sliding attention looks back.
    """

    trained: int | None
    table: bool
    window: int | None

    def check(self, host: str, needed: int, what: str) -> list[str]:
        """Warnings where `needed` positions, `what` in words, are more than the host has.

        Raises UsageError where it has a table of fewer.
        """
        found = []
        if self.trained is not None and needed > self.trained:
            said = f"host {host} reads {self.trained} positions (max_position_embeddings), and {what} is {needed}"
            if self.table:
                raise UsageError(
                    f"{said}: its positions are a table, nothing lies behind its end; shorten it with --set "
                    "text.report=…, generation.max_new_tokens=…, text.exemplar=…, host.prompt=… or fewer visual tokens"
                )
            found.append(f"{said}: it has not learnt what lies behind")
        if self.window is not None and needed > self.window:
            found.append(
                f"host {host} has layers that look back {self.window} positions (sliding_window), and {what} is "
                f"{needed}: there the end of a report does not see the films"
            )
        return found


def lengths_of(model: Any, decoder: nn.Module) -> Lengths:
    config = model.config.get_text_config(decoder=True)
    trained = getattr(config, "max_position_embeddings", None)
    trained = trained if isinstance(trained, int) and trained > 0 else None
    return Lengths(trained, trained is not None and _has_table(model, decoder, trained), _window(config))


def _has_table(model: Any, decoder: nn.Module, trained: int) -> bool:
    """Embeddings or a buffer with a row for each position; some families keep a few rows more."""
    words = model.get_input_embeddings()
    tables = [m.weight for m in decoder.modules() if isinstance(m, nn.Embedding) and m is not words]
    tables += [buffer for buffer in decoder.buffers() if buffer.ndim == 2]
    return any(trained <= table.shape[0] <= trained + 8 for table in tables)


def _window(config: Any) -> int | None:
    window = getattr(config, "sliding_window", None)
    layers = getattr(config, "layer_types", None)
    slides = "sliding_attention" in layers if layers else getattr(config, "use_sliding_window", True)
    return window if isinstance(window, int) and window > 0 and slides else None
