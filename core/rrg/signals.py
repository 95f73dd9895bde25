"""The named tensors that pieces exchange. The argument names of a piece's `forward` are these names.

An argument whose name is not in the table belongs to the piece's own method: `expert_embedding` in LEAD's gate is the
signal `lead.expert_embedding`. Another method's signal is read with two underscores: `lead__expert_embedding`.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Signal:
    """One row of the table.

    axes: names from the one axis vocabulary. dtype: of jaxtyping, as pieces annotate it.
    """

    axes: str
    meaning: str
    dtype: str = "Float"
    source: str | None = None  # "data": the study itself; "host": a vision-language host's own tower
    default: str | None = None  # the core piece that joins when nothing else gives the signal
    single: bool = False  # only one piece of a composition may give it
    training: bool = False  # it tells the report, or what training alone shows: absent when a report is written


AXES = {
    "batch": "studies",
    "views": "films of one study",
    "channels": "colour channels of a film",
    "height": "pixels",
    "width": "pixels",
    "patches": "positions of the visual feature maps of all views",
    "vision": "width of the visual features",
    "slots": "positions of the visual prefix",
    "host": "hidden width of the language model",
    "text": "tokens of the language model",
    "diseases": "the 14 observations",
    "layers": "decoder layers",
    "report": "tokens of a report",
    "reference": "tokens of a reference report",
    "phrase": "tokens of a study's key phrases",
    "language": "width of the text encoder's vectors",
    "key": "width of a retriever's key",
}


def _of_text(name: str, what: str) -> dict[str, Signal]:
    """A text as the collator tokenises it for the composition's text encoder, and its token vectors."""
    axes, given = f"batch {name}", f"{what}, as tokens of the text encoder"
    return {
        f"{name}_ids": Signal(axes, given, "Int", source="data", training=True),
        f"{name}_mask": Signal(axes, f"1 where there is a token of {what}", "Bool", source="data", training=True),
        f"{name}_tokens": Signal(
            f"{axes} language", f"{what}, a vector a token", default="core.text", single=True, training=True
        ),
    }


SIGNALS = {
    "pixel_values": Signal("batch views channels height width", "films, grey values in [0, 1]", source="data"),
    "view_mask": Signal("batch views", "1 where the study has the film", "Bool", source="data"),
    "patch_tokens": Signal("batch patches vision", "last visual feature map", default="core.encoder", single=True),
    "patch_mask": Signal("batch patches", "1 where the patch belongs to a film", "Bool", default="core.encoder"),
    "visual_mean": Signal("batch vision", "mean patch vector of a study", default="core.pool"),
    "disease_tokens": Signal("batch diseases vision", "one vector per observation"),
    "disease_logits": Signal("batch diseases", "one logit per observation"),
    "disease_labels": Signal("batch diseases", "1, 0, -1 uncertain, nan not mentioned", source="data", training=True),
    **_of_text("report", "the study's report"),
    "report_embed": Signal("batch language", "one vector per report", default="core.text", training=True),
    **_of_text("reference", "a reference report"),
    **_of_text("phrase", "the study's key phrases"),
    "visual_embeds": Signal("batch slots host", "the visual prefix", default="core.connector", single=True),
    "visual_mask": Signal("batch slots", "1 where the prefix holds something", "Bool", default="core.connector"),
    "hidden": Signal("batch text host", "a decoder layer's hidden states", source="host"),
}


def of_training(signal: str) -> bool:
    """Whether a signal is there in training alone. Labels come from the report: a model that read them would copy."""
    return signal in SIGNALS and SIGNALS[signal].training


def signal_of(argument: str, method: str) -> str:
    """The signal that an argument of a piece of `method` names."""
    if "__" in argument:
        other, _, name = argument.partition("__")
        return f"{other.replace('_', '-')}.{name}"
    return argument if argument in SIGNALS else f"{method}.{argument}"
