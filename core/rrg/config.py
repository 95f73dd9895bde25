"""Settings of pieces and stages. A piece's `__init__` annotation of `config` is its schema; every field has a default.

A field whose paper is silent says "not stated in the paper" in its description; `rrg compose --json` prints them all.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class PieceConfig(BaseModel):
    """Base of every piece's settings: unknown keys, wrong types, nan and infinity are errors, in defaults too."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class Folder:
    """Marks a setting that may name a folder: `Annotated[str, Folder]`. Composing makes its path absolute."""


class InjectorConfig(PieceConfig):
    """Settings that every injector has: where it acts."""

    layers: list[int] | Literal["all"] = Field("all", description="decoder layers it acts on, counted from 0")
    where: Literal["pre", "post"] = Field("post", description="before or after the layer")


class LossConfig(PieceConfig):
    """Settings that every auxiliary loss has."""

    weight: float = Field(1.0, description="factor before it is added to the language-model loss; 0 leaves it out")


class RetrieverConfig(PieceConfig):
    """Base of every retriever's configuration."""

    search: Literal["exact", "ivf"] = Field(
        "exact", description="of the index: exact, or approximate by faiss in cells of similar keys, for large corpora"
    )
    probe: int = Field(16, ge=1, description="cells that a search by ivf looks into")


class LoRA(PieceConfig):
    """Low-rank adapters on the language model (Hu et al. 2022), by peft."""

    r: int = Field(16, ge=1, description="rank")
    alpha: float = Field(32, gt=0, description="scale: updates are multiplied by alpha / r")
    dropout: float = Field(0.0, ge=0, lt=1)


class StageConfig(PieceConfig):
    """One training stage, data only. `None` takes the value of the stage before (core's own default for the first).

    What a stage without `report` says of the language model is not handed on.
    """

    vision: Literal["frozen", "full"] | None = Field(None, description="what gives patch_tokens: the vision tower")
    connector: Literal["frozen", "full"] | None = Field(None, description="what gives visual_embeds")
    llm: Literal["frozen", "lora", "full"] | None = Field(None, description="how the language model trains")
    pieces: list[str] | None = Field(None, description="names or patterns (lead.*) of all other pieces that train")
    lora: LoRA | None = Field(None, description="adapters where llm = lora; the same in every stage")
    losses: list[str] = Field(["*"], description="names or patterns of the auxiliary losses that take part")
    report: bool = Field(True, description="whether the language model runs; without it the auxiliary losses train")
    exemplars: bool = Field(False, description="whether retrieved reports stand in the prompt")
    contexts: list[Literal["reference", "phrase"]] = Field(
        [], description="texts that this stage alone shows beside the film: a reference report, key phrases"
    )
    phrases: int = Field(4, ge=1, description="key phrases drawn from a study's, in each epoch anew")
    joint: bool = Field(False, description="each study shows none, the first, … or all of the contexts, by chance")
    epochs: float | None = Field(None, description="passes over the training split")
    max_steps: int = Field(-1, description="stop after this many optimizer steps; -1: by epochs")
    batch_size: int | None = Field(None, description="studies per device and step")
    accumulation: int | None = Field(None, description="steps whose gradients are added up")
    lr: float | None = Field(None, description="peak learning rate of AdamW")
    weight_decay: float | None = None
    warmup: float | None = Field(None, description="linear warm-up: steps, or the share of all steps if below 1")
    schedule: Literal["cosine", "linear", "constant"] | None = None
    max_grad_norm: float | None = None
    label_smoothing: float | None = Field(None, ge=0, lt=1, description="of the language-model loss")

    # Validators, not the fields' own limits: a stage that gives a field another default would lose those.

    @field_validator("epochs", "batch_size", "accumulation", "lr", "max_grad_norm")
    @classmethod
    def _above_0(cls, value: float | None) -> float | None:
        if value is not None and not value > 0:
            raise ValueError("input should be greater than 0")
        return value

    @field_validator("weight_decay", "warmup")
    @classmethod
    def _from_0(cls, value: float | None) -> float | None:
        if value is not None and not value >= 0:
            raise ValueError("input should be 0 or more")
        return value


STAGE_DEFAULTS = {
    "vision": "full",
    "connector": "full",
    "llm": "lora",
    "pieces": ["*"],
    "epochs": 3.0,
    "batch_size": 8,
    "accumulation": 1,
    "lr": 1e-4,
    "weight_decay": 0.01,
    "warmup": 0.03,
    "schedule": "cosine",
    "max_grad_norm": 1.0,
    "label_smoothing": 0.0,
}


class HostConfig(PieceConfig):
    """The language model."""

    name: str = Field(description="a name of registry.toml, a hub id or a local folder")
    kind: str = Field(description="text: reads a visual prefix; qwen3-vl: has its own vision tower")
    source: Annotated[str, Folder] = Field("", description="hub id or folder of the weights; empty: built at random")
    config: dict[str, object] = Field({}, description="fields of the model's configuration to change")
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    gradient_checkpointing: bool = False
    vocab_size: int | None = Field(None, ge=64, description="tokens of a tokenizer learnt from the training reports")
    prompt: str = Field(description="what the model reads; {visual} and {exemplar} are filled in")
    film: str = Field("{film}", description="how one film stands within {visual}, for hosts with a vision tower")
    exemplar: str = Field(description="how a retrieved report stands within {exemplar}")

    @model_validator(mode="after")
    def _holds_places(self) -> Self:
        for field, place in (
            ("prompt", "{visual}"),
            ("prompt", "{exemplar}"),
            ("film", "{film}"),
            ("exemplar", "{exemplar}"),
        ):
            if getattr(self, field).count(place) != 1:
                raise ValueError(f"{field} must hold {place} once, given {getattr(self, field)!r}")
        if self.prompt.index("{exemplar}") < self.prompt.index("{visual}"):
            raise ValueError("prompt must hold {exemplar} after {visual}")
        return self


class ImageConfig(PieceConfig):
    """How films become tensors."""

    size: int = Field(224, ge=16, le=2048, description="height and width in pixels; films are squashed to it")
    views: int = Field(2, ge=1, le=16, description="films of a study at most, in its order; further ones are left out")
    augment: float = Field(0.0, ge=0, le=1, description="strength of random shift, turn, zoom and exposure in training")


class TextConfig(PieceConfig):
    """Lengths of texts, in tokens of the host."""

    report: int = Field(160, ge=8, description="longest report that is learnt")
    exemplar: int = Field(100, ge=8, description="longest exemplar in the prompt")


class GenerationConfig(PieceConfig):
    """Decoding."""

    max_new_tokens: int = Field(160, ge=1)
    beams: int = Field(1, ge=1, le=64, description="1: greedy")
    length_penalty: float = 1.0
    batch_size: int = Field(16, ge=1, description="studies at once")
    # Unset they leave no trace, so that a recipe without them is what it always was.
    do_sample: bool | None = Field(None, description="draw tokens by their probability; unset: take the likeliest")
    temperature: float | None = Field(None, gt=0, description="of drawing: below 1 the likelier gain; unset: 1")
    top_k: int | None = Field(None, ge=1, description="draw from the likeliest k tokens; unset: from all")
    top_p: float | None = Field(None, gt=0, le=1, description="draw from the likeliest tokens of this share; unset: 1")
    seed: int | None = Field(
        None, ge=0, lt=2**32, description="of drawing; a study's report depends on it and the study alone; unset: 0"
    )

    @model_validator(mode="after")
    def _draws_or_not(self) -> Self:
        given = [name for name in ("temperature", "top_k", "top_p", "seed") if getattr(self, name) is not None]
        if given and not self.do_sample:
            raise ValueError(f"{', '.join(given)} act where tokens are drawn; set do_sample=true")
        if self.do_sample and self.beams > 1:
            raise ValueError(f"do_sample draws one text at a time, given beams={self.beams}; set beams=1")
        return self
