"""Training: one Hugging Face Trainer run per stage, each starting from the last, all resumable.

A run folder:
    recipe.toml  run.json  environment.json  log.jsonl  tokenizer/ (a host that learns its own)
    stages/01-lead.train/   pieces.safetensors  host.safetensors or adapter/   index/ (where exemplars stand in the prompt)
    index/                  the training split's keys under the final weights, for generation
A stage's folder appears, complete, when the stage ends; until then its checkpoints lie in a folder ending in .partial.
"""

import json
import os
import platform
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint

from rrg.batch import Collator, Prompt, Studies
from rrg.config import StageConfig
from rrg.data.study import StudyFolder
from rrg.errors import DataError, UsageError
from rrg.hosts.build import learn_tokenizer, open_tokenizer
from rrg.model import RRGModel, build
from rrg.recipe import Recipe
from rrg.retrieval import Index, build_index, exemplars
from rrg.weights import load_weights, save_weights


def train(recipe: Recipe, data: Path, out: Path, *, resume: bool = False, workers: int = 0) -> RRGModel:
    """Train every stage of a recipe on a study folder's training split, into the run folder `out`.

    resume: go on in `out` where an interrupted run of the same recipe stopped; same data order, same losses.
    workers: processes that decode films ahead of the training.

    Raises UsageError where `out` holds another run, DataError where the data folder is unsound or has no training split.
    """
    folder = StudyFolder.open(data)
    if not folder.split("train"):
        raise DataError(f"{data}: no study of the split train; rrg data import writes one")
    _begin(recipe, folder, out, resume)
    set_seed(recipe.seed)
    model = build(recipe, tokenizer=_tokenizer(recipe, folder, out))
    for number, name in enumerate(recipe.stages):
        done = out / "stages" / f"{number + 1:02d}-{name}"
        model.begin(name)
        if (done / "pieces.safetensors").exists():
            load_weights(model, done)
            continue
        _run_stage(model, folder, name, done, out / "log.jsonl", workers)
    if model.retriever and not (out / "index").exists():
        build_index(model, folder).save(out / "index")
    _write_json(out / "run.json", {**_read_json(out / "run.json"), "finished": time.strftime("%Y-%m-%dT%H:%M:%S")})
    return model.eval()


def _begin(recipe: Recipe, folder: StudyFolder, out: Path, resume: bool) -> None:
    if (out / "recipe.toml").exists():
        earlier = Recipe.open(out / "recipe.toml")
        if not resume:
            raise UsageError(f"{out} holds a run already; go on with --resume, or give another --out")
        if earlier.hash != recipe.hash:
            raise UsageError(f"{out} holds recipe {earlier.hash}, not {recipe.hash}: a run goes on only with its own recipe")
        earlier_data = _read_json(out / "run.json")["data"]
        if Path(earlier_data) != folder.path.resolve():
            raise UsageError(f"{out} was trained on {earlier_data}; a run goes on only with its own data")
        return
    if resume:
        raise UsageError(f"{out} holds no run to resume; leave --resume out")
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty and holds no run; give another --out")
    (out / "stages").mkdir(parents=True, exist_ok=True)
    _write_json(out / "run.json", {"data": str(folder.path.resolve()), "dataset": folder.card.get("name"), "split": "test",
                                   "started": time.strftime("%Y-%m-%dT%H:%M:%S")})
    _write_json(out / "environment.json", environment(recipe))
    recipe.save(out / "recipe.toml")


def environment(recipe: Recipe) -> dict[str, Any]:
    """What a run depended on besides its recipe."""
    commit = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "versions": recipe.versions,
        "recipe": recipe.hash,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "seed": recipe.seed,
        "commit": commit.stdout.strip() or None,
    }


def _tokenizer(recipe: Recipe, folder: StudyFolder, out: Path) -> Any:
    """The run's own tokenizer, for a host that learns it from the training reports; None for one that has its own."""
    if not recipe.host.vocab_size:
        return None
    saved = out / "tokenizer"
    if not saved.exists():
        partial = out / f".tokenizer.{os.getpid()}"
        learn_tokenizer([study.findings for study in folder.split("train")], recipe.host.vocab_size).save_pretrained(partial)
        os.replace(partial, saved)
    return open_tokenizer(saved)


def _run_stage(model: RRGModel, folder: StudyFolder, name: str, done: Path, log: Path, workers: int) -> None:
    stage: StageConfig = model.configs[name]
    partial = done.with_name(f"{done.name}.partial")
    partial.mkdir(exist_ok=True)
    splits = {split: folder.split(split) for split in ("train", "val")}
    shown = None
    if stage.exemplars:
        if not (partial / "index").exists():
            build_index(model, folder).save(partial / "index")
        index = Index.open(partial / "index")
        shown = {i: e.report for s in splits.values() for i, e in exemplars(model, folder, s, index).items()}
    trainer = StageTrainer(
        model=model,
        args=_arguments(stage, partial, model.recipe.seed, workers),
        train_dataset=Studies(folder, splits["train"], model.recipe),
        eval_dataset=Studies(folder, splits["val"], model.recipe) if splits["val"] else None,
        data_collator=Collator(Prompt(model.recipe, model.host), learn=True, exemplars=shown),
        callbacks=[Log(log, name)],
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(partial)))
    save_weights(model, partial)
    for checkpoint in partial.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    os.replace(partial, done)


def _arguments(stage: StageConfig, folder: Path, seed: int, workers: int) -> TrainingArguments:
    assert stage.warmup is not None
    return TrainingArguments(
        output_dir=str(folder),
        seed=seed,
        num_train_epochs=stage.epochs,
        max_steps=stage.max_steps,
        per_device_train_batch_size=stage.batch_size,
        per_device_eval_batch_size=max(stage.batch_size or 1, 16),
        gradient_accumulation_steps=stage.accumulation,
        learning_rate=stage.lr,
        weight_decay=stage.weight_decay,
        warmup_steps=stage.warmup,  # below 1 it is a share of all steps
        lr_scheduler_type=stage.schedule,
        max_grad_norm=stage.max_grad_norm,
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_steps=10,
        prediction_loss_only=True,
        remove_unused_columns=False,
        label_names=["labels"],
        report_to=[],
        dataloader_num_workers=workers,
        dataloader_pin_memory=torch.cuda.is_available(),
        accelerator_config={"use_seedable_sampler": True},
    )


class StageTrainer(Trainer):
    """The Trainer, with our weight files, checkpoints that appear at once, and every loss in the log."""

    model: RRGModel

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:
            logs = {**logs, **{f"loss/{name}": round(value, 4) for name, value in self.model.parts.items()}}
        super().log(logs, *args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        save_weights(self.model, Path(output_dir or self.args.output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_weights(self.model, Path(resume_from_checkpoint))

    def _get_output_dir(self, trial: Any) -> str:
        return os.path.join(self.args.output_dir, ".writing") if self._writing else self.args.output_dir

    _writing = False

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write beside, then rename: a checkpoint that is there is whole. Only the newest stays."""
        folder, self._writing = Path(self.args.output_dir), True
        try:
            shutil.rmtree(folder / ".writing", ignore_errors=True)
            super()._save_checkpoint(model, trial)
        finally:
            self._writing = False
        older = list(folder.glob("checkpoint-*"))
        for written in (folder / ".writing").glob("checkpoint-*"):
            os.replace(written, folder / written.name)
        shutil.rmtree(folder / ".writing")
        for checkpoint in older:
            shutil.rmtree(checkpoint)


class Log(TrainerCallback):
    """Append every logged value to the run's log.jsonl."""

    def __init__(self, path: Path, stage: str) -> None:
        self.path, self.stage = path, stage

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        line = {"stage": self.stage, "step": state.global_step, **(logs or {})}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, path)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a JSON object")
    return content
