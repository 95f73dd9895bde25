"""The Hugging Face Trainer of one stage: our weight files, whole checkpoints, all losses logged, a line per epoch."""

import json
import math
import os
import shutil
import sys
import time
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import rrg._torchvision  # noqa: F401

# isort: split
# Only now what imports transformers.
import torch
from tqdm import tqdm
from transformers import PrinterCallback, Trainer, TrainerCallback

from rrg.errors import DataError, RRGError
from rrg.feed.stream import to_device, workers_quiet
from rrg.feed.texts import Texts
from rrg.model.model import RRGModel
from rrg.model.weights import load_weights, save_weights
from rrg.train.augment import augment
from rrg.train.sampling import LengthGrouped


class StageTrainer(Trainer):
    """Trains the stage that the model has entered.

    save_steps: optimizer steps between checkpoints, besides the one at each epoch's end; None: those alone.
    log: the run's log.jsonl.
    """

    model: RRGModel

    def __init__(self, model: RRGModel, *, name: str, log: Path, save_steps: int | None = None, **options: Any) -> None:
        super().__init__(model=model, callbacks=[Checkpoints(save_steps)], **options)
        lengths = self.train_dataset.lengths
        self._sampler = LengthGrouped(lengths, self.args.per_device_train_batch_size, self.args.seed)
        self.add_callback(Order(self._sampler, self.data_collator.texts))
        if self.is_world_process_zero():
            self.add_callback(Log(log, name))
            self.add_callback(Progress(name))
        self.remove_callback(PrinterCallback)
        self._name, self._parts, self._weight = name, dict[str, float](), 0.0

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthGrouped:
        return self._sampler

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Raises DataError for a film that cannot be read, in a worker too, or a checkpoint of more than tensors."""
        try:
            with workers_quiet():
                return super().train(*args, **kwargs)
        except UnpicklingError as error:  # of torch, which reads tensors and numbers alone
            raise DataError(
                f"{kwargs.get('resume_from_checkpoint')}: holds more than tensors, so it is not read; "
                "remove that folder to begin the stage anew"
            ) from error

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return to_device(inputs, self.args.device)

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        strength = self.model.recipe.image.augment
        if model.training and strength:
            inputs = {**inputs, "pixel_values": augment(inputs["pixel_values"], strength)}
        return super().compute_loss(model, inputs, *args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Raises RRGError where a loss is no longer finite: further steps would only spoil the weights."""
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        parts = self.model.parts
        broken = [f"{name} is {value}" for name, value in parts.items() if not math.isfinite(value)]
        if broken:
            raise RRGError(
                f"{self._name} diverged at step {self.state.global_step + 1}: {', '.join(broken)}; "
                f"train anew with a lower {self._name}.lr, or look for the loss's cause"
            )
        share = 1 / self.current_gradient_accumulation_steps
        self._weight += share
        for name, value in parts.items():
            self._parts[name] = self._parts.get(name, 0.0) + value * share
        return loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:  # every part's mean over the same steps as the Trainer's own
            logs = {**logs, **{f"loss/{name}": total / self._weight for name, total in self._parts.items()}}
            self._parts, self._weight = {}, 0.0
        super().log(logs, *args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if self.args.should_save:
            save_weights(self.model, Path(output_dir or self.args.output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_weights(self.model, Path(resume_from_checkpoint))

    def _get_output_dir(self, trial: Any) -> str:
        return os.path.join(self.args.output_dir, ".writing")

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Written beside, then renamed: a checkpoint that is there is whole. Only the newest stays."""
        folder, writing = Path(self.args.output_dir), Path(self._get_output_dir(trial))
        if self.args.should_save:
            shutil.rmtree(writing, ignore_errors=True)
            writing.mkdir()
        self.accelerator.wait_for_everyone()
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()  # every process writes its own random state
        if self.args.should_save:
            older = checkpoints(folder)
            for written in writing.iterdir():
                os.replace(written, folder / written.name)
            for path in (writing, *older):
                shutil.rmtree(path)


def checkpoints(folder: Path) -> list[Path]:
    """A stage's checkpoints, oldest first."""
    return sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))


class Order(TrainerCallback):
    """Tell sampler and texts the epoch: resumed within one by several processes, accelerate's wrappers do not."""

    def __init__(self, sampler: LengthGrouped, texts: Texts | None) -> None:
        self.sampler, self.texts = sampler, texts

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.sampler.set_epoch(int(state.epoch or 0))
        if self.texts is not None:
            self.texts.epoch = int(state.epoch or 0)


class Checkpoints(TrainerCallback):
    """Save every so many steps. Whatever is saved is logged first, so that no logged loss straddles a checkpoint."""

    def __init__(self, steps: int | None) -> None:
        self.steps = steps

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # The last step of an epoch is saved after the epoch's validation, which draws random numbers too.
        if self.steps and state.global_step % self.steps == 0 and not _epoch_ends(state):
            control.should_log = control.should_save = True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_log = True


def _epoch_ends(state: Any) -> bool:
    return bool(state.epoch == int(state.epoch) or state.global_step >= state.max_steps)


class Log(TrainerCallback):
    """Append every logged value to the run's log.jsonl; after an interruption, first drop what is done again."""

    def __init__(self, path: Path, stage: str) -> None:
        self.path, self.stage = path, stage

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        kept = [line for line in lines if _stage_of(line) not in (self.stage, None)]
        kept += [self._line(entry) for entry in state.log_history]
        partial = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        partial.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        os.replace(partial, self.path)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(self._line(state.log_history[-1]) + "\n")

    def _line(self, entry: dict[str, Any]) -> str:
        return json.dumps({"stage": self.stage, **entry})


def _stage_of(line: str) -> str | None:
    """The stage of a line of the log; None for a line cut short."""
    try:
        return str(json.loads(line)["stage"])
    except (ValueError, KeyError, TypeError):
        return None


class Progress(TrainerCallback):
    """A bar on stderr where that is a terminal, and one line per epoch on stdout."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.validation: tqdm | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar = tqdm(desc=self.stage, total=state.max_steps, initial=state.global_step, unit="step", disable=None)
        self.started = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.update()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" in logs:
            self.bar.set_postfix(loss=f"{logs['loss']:.3f}")

    def on_prediction_step(
        self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **kwargs: Any
    ) -> None:
        if self.validation is None:
            self.validation = tqdm(desc="val", total=len(eval_dataloader), unit="batch", leave=False, disable=None)
        self.validation.update()

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.validation is not None:
            self.validation.close()
            self.validation = None

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if _epoch_ends(state):
            minutes, self.started = (time.monotonic() - self.started) / 60, time.monotonic()
            tqdm.write(f"{self.stage}  {epoch_line(state)}  {minutes:.1f} min", file=sys.stdout)
            sys.stdout.flush()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.close()


def epoch_line(state: Any) -> str:
    """The last epoch's mean losses and validation loss, from what was logged."""
    epoch, before, steps = math.ceil(state.epoch), 0, 0
    totals: dict[str, float] = {}
    for entry in (e for e in state.log_history if "loss" in e):
        weight, before = entry["step"] - before, entry["step"]
        if entry["epoch"] > epoch - 1:
            steps += weight
            for key in (key for key in entry if key.partition("/")[0] == "loss"):
                totals[key] = totals.get(key, 0.0) + weight * entry[key]
    means = {key.removeprefix("loss/"): f"{total / steps:.3f}" for key, total in totals.items()}
    loss = means.pop("loss")
    parts = f" ({', '.join(f'{name} {mean}' for name, mean in means.items())})" if len(means) > 1 else ""
    val = [
        f"  val {e['eval_loss']:.3f}" for e in state.log_history if "eval_loss" in e and e["step"] == state.global_step
    ]
    return f"epoch {epoch}/{state.num_train_epochs}  loss {loss}{parts}{''.join(val)}"
