"""Key phrases refined by a language model (S2D-Align): broken or clinging fragments to clean ones."""

from collections.abc import Sequence

import torch

from rrg.composing.host_names import host_preset
from rrg.config import GenerationConfig, HostConfig
from rrg.data.attach import Refiner
from rrg.data.phrases import REFINE, parse_refined
from rrg.errors import UsageError
from rrg.model.hosts.build import build_host


def _answer(text: str) -> str:
    """A completion up to where a small model goes on with an example of its own."""
    return text.partition("\nFragments:")[0].partition("\n\n")[0]


def host_refiner(name: str) -> Refiner:
    """A refiner by any text host: a known name, a hub id or a local folder. Greedy, with our own prompt `REFINE`.

    Raises UsageError for a host that is unknown or built at random.
    """
    config = HostConfig(**host_preset(name)["host"])
    if not config.source:
        raise UsageError(f"host {name} is built at random and refines nothing; give a published one or a local folder")
    host = build_host(config, None)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    host.to(device).eval()
    tokenizer = host.tokenizer
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token

    def refine(given: Sequence[list[str]]) -> list[list[str]]:
        prompts = [REFINE.replace("{phrases}", "\n".join(f"- {phrase}" for phrase in phrases)) for phrases in given]
        inputs = tokenizer(prompts, return_tensors="pt", padding=True, return_token_type_ids=False).to(device)
        longest = max(len(tokenizer("\n".join(phrases)).input_ids) for phrases in given)
        answers = host.generate(dict(inputs), GenerationConfig.model_validate({"max_new_tokens": 2 * longest + 16}))
        shown = tokenizer.batch_decode(inputs["input_ids"], skip_special_tokens=True)
        return [
            parse_refined(_answer(text.removeprefix(prompt.strip())), phrases)
            for text, prompt, phrases in zip(answers, shown, given, strict=True)
        ]

    return refine
