"""Training: one Hugging Face Trainer run per stage, each starting from the last, all resumable."""

import os
import shutil
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import rrg._torchvision  # noqa: F401

# isort: split
# Only now what imports transformers.
import torch
from accelerate import PartialState
from transformers import TrainerState, TrainingArguments, set_seed
from transformers.trainer import TRAINER_STATE_NAME

from rrg.composing.recipe import Recipe
from rrg.config import StageConfig
from rrg.data.study import StudyFolder
from rrg.data.write import new_folder, refuse_occupied
from rrg.errors import DataError, UsageError
from rrg.feed.batch import Prompt, Studies, collate
from rrg.feed.stream import CONTEXT, batches, to_device, workers_for
from rrg.feed.texts import Collator, Texts
from rrg.model.hosts.build import learn_tokenizer, open_tokenizer
from rrg.model.hosts.lengths import lengths_of
from rrg.model.model import RRGModel, build
from rrg.model.weights import load_weights, save_weights
from rrg.plan.counting import plan
from rrg.retrieve.index import Index, build_index, exemplars
from rrg.retrieve.references import choose_references, save_references, summary
from rrg.runs.environment import environment
from rrg.runs.folder import (
    ENVIRONMENT,
    INDEX,
    LOG,
    RECIPE,
    REFERENCES,
    RUN,
    STAGES,
    TOKENIZER,
    fingerprint,
    read_run,
    stage_folder,
    write_json,
)
from rrg.train.trainer import StageTrainer, checkpoints


def train(
    recipe: Recipe,
    folder: StudyFolder,
    out: Path,
    *,
    resume: bool = False,
    workers: int | None = None,
    save_steps: int | None = None,
) -> RRGModel:
    """Train every stage of a recipe on a study folder's training split, into the run folder `out`.

    resume: go on in `out` where an interrupted run of the same recipe stopped; same data order, same losses.
    workers: processes that decode films ahead of the training; None: as `rrg.feed.stream.workers_for` chooses.
    save_steps: optimizer steps between checkpoints; None: one at each epoch's end.

    Raises UsageError, with nothing written, where `out` holds something else or the recipe cannot be trained; DataError
    where there is no training study.
    """
    if save_steps is not None and save_steps < 1:
        raise UsageError(f"save_steps={save_steps}: give 1 or more steps")
    here = _process()
    workers = workers_for(here.device, workers)
    if not folder.split("train"):
        raise DataError(f"{folder.path}: no study of the split train; rrg data import writes one")
    if resume:
        _check_resumable(recipe, folder, out)
    else:
        _check_new(out)
    set_seed(recipe.seed)
    tokenizer = _tokenizer(recipe, folder, out / TOKENIZER if resume else None)
    model = build(recipe, tokenizer=tokenizer)
    _check_stages(model)
    here.wait_for_everyone()  # each has seen for itself that it may begin: none waits for one that may not
    if not resume and here.is_main_process:
        _begin(recipe, folder, out, tokenizer)
    here.wait_for_everyone()
    model.to(here.device)
    for number, name in enumerate(recipe.stages, start=1):
        model.begin(name)
        done = stage_folder(out, recipe.stages, number)
        if not done.exists():
            _run_stage(model, folder, name, done, log=out / LOG, workers=workers, save_steps=save_steps)
            continue
        load_weights(model, done)
        _remove_checkpoints(done)
    if here.is_main_process:
        if model.configs[recipe.stages[-1]].exemplars and not (out / INDEX).exists():
            build_index(model, folder, workers).save(out / INDEX)
        run = read_run(out)
        if "finished" not in run:
            write_json(out / RUN, {**run, "finished": _now()})
    here.wait_for_everyone()
    return model.eval()


def _process() -> PartialState:
    """This process among those of a launcher such as torchrun; the main one alone writes."""
    return PartialState(cpu=not torch.cuda.is_available())


def _check_resumable(recipe: Recipe, folder: StudyFolder, out: Path) -> None:
    run = read_run(out)
    earlier = Recipe.open(out / RECIPE)
    if earlier.hash != recipe.hash:
        raise UsageError(
            f"{out} holds recipe {earlier.hash}, not {recipe.hash}: a run goes on only with its own recipe"
        )
    if run.get("fingerprint") != fingerprint(folder.path):
        raise UsageError(
            f"{out} was trained on {run['data']}, and {folder.path} holds other studies: "
            "a run goes on only with its own data"
        )


def _check_stages(model: RRGModel) -> None:
    problems = []
    for name in model.recipe.stages:
        model.begin(name)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            problems.append(f"{name} trains nothing: set its vision, connector, llm or pieces")
        if model.configs[name].exemplars and not model.retriever:
            problems.append(f"{name}.exemplars needs a retriever: add one, such as +dmsr")
    model.touched.clear()  # nothing has been trained yet
    Prompt(model.recipe, model.host)  # refuses one that the host cannot go on from
    if lengths_of(model.host.model, model.host.decoder[0]).table:
        plan(model.recipe)  # refuses what is longer than the table
    if problems:
        raise UsageError("the recipe's stages cannot be trained", problems)


def _check_new(out: Path) -> None:
    if (out / RECIPE).exists():
        raise UsageError(f"{out} holds a run already; go on with --resume, or give another --out")
    refuse_occupied(out)


def _begin(recipe: Recipe, folder: StudyFolder, out: Path, tokenizer: Any) -> None:
    with new_folder(out) as partial:
        (partial / STAGES).mkdir()
        if tokenizer is not None:
            tokenizer.save_pretrained(partial / TOKENIZER)
        started = {
            "data": str(folder.path.resolve()),
            "dataset": folder.card["name"],
            "split": "test",
            "started": _now(),
        }
        write_json(partial / RUN, {**started, "fingerprint": fingerprint(folder.path)})
        write_json(partial / ENVIRONMENT, environment(recipe))
        recipe.save(partial / RECIPE)


def _tokenizer(recipe: Recipe, folder: StudyFolder, saved: Path | None) -> Any:
    """The run's own tokenizer, for a host that learns it from the training reports; None for one that has its own."""
    if not recipe.host.vocab_size:
        return None
    if saved is not None:
        return open_tokenizer(saved)
    return learn_tokenizer([study.findings for study in folder.split("train")], recipe.host.vocab_size)


def _run_stage(
    model: RRGModel, folder: StudyFolder, name: str, done: Path, *, log: Path, workers: int, save_steps: int | None
) -> None:
    stage: StageConfig = model.configs[name]
    partial = done.with_name(f"{done.name}.partial")
    partial.mkdir(exist_ok=True)
    train, val = folder.split("train"), folder.split("val")
    shown = None
    here = _process()
    _settle(model, stage, folder, workers)
    if stage.exemplars:
        # The index holds the weights of the stage's start, so an interrupted stage finds it ready.
        if here.is_main_process and not (partial / INDEX).exists():
            build_index(model, folder, workers).save(partial / INDEX)
        here.wait_for_everyone()
        index = Index.open(partial / INDEX, model.retriever_config)
        shown = {
            i: entry.report
            for split in (train, val)
            for i, entry in exemplars(model, folder, split, index, workers).items()
        }
    texts = _texts(model, folder, stage, partial, workers)
    trainer = StageTrainer(
        model,
        name=name,
        log=log,
        save_steps=save_steps,
        args=_arguments(stage, partial, model.recipe.seed, workers, validate=bool(val)),
        train_dataset=Studies(folder, train, model.recipe),
        eval_dataset=Studies(folder, val, model.recipe) if val else None,
        data_collator=Collator(Prompt(model.recipe, model.host), shown, texts),
    )
    last = checkpoints(partial)[-1:]
    if last and _is_final(last[0]):
        load_weights(model, last[0])
    else:
        trainer.train(resume_from_checkpoint=str(last[0]) if last else None)
    if here.is_main_process:
        save_weights(model, partial)
        os.replace(partial, done)
        _remove_checkpoints(done)
    here.wait_for_everyone()


@torch.inference_mode()
def _settle(model: RRGModel, stage: StageConfig, folder: StudyFolder, workers: int) -> None:
    """Give frozen pieces that have no statistics yet those of the training films; what trains gathers its own."""
    waiting: dict[str, Any] = {
        name: module
        for name, module in model.modules_by_piece.items()
        if not getattr(module, "settled", True) and not model.roles.trains(name, stage)
    }
    if not waiting:
        return
    training, device, size = model.training, _process().device, model.recipe.generation.batch_size
    model.eval()
    films = Studies(folder, folder.split("train"), model.recipe)
    with ExitStack() as settling:
        for module in waiting.values():
            settling.enter_context(module.settling())
        for batch in batches(films, size, collate, "statistics", device=device, workers=workers):
            model.signals(to_device(batch, device))
    model.train(training)


def _texts(model: RRGModel, folder: StudyFolder, stage: StageConfig, partial: Path, workers: int) -> Texts | None:
    """What the stage shows beside the films; references are chosen by the weights of its start, as an index is."""
    wanted = model.roles.texts(model.stage)
    if not wanted or model.text_encoder is None:
        return None
    references = {}
    if "reference" in wanted:
        references = choose_references(model, folder, workers)
        if _process().is_main_process:
            save_references(references, partial / REFERENCES)
            print(summary(references, folder), flush=True)
    encoder: Any = model.modules_by_piece[model.text_encoder]
    return Texts(wanted, encoder.tokenize, stage, references, model.recipe.seed)


def _is_final(checkpoint: Path) -> bool:
    """Whether the stage's last step is taken; a Trainer resumed there would take one more."""
    state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
    return bool(state.global_step >= state.max_steps)


def _remove_checkpoints(stage: Path) -> None:
    for path in (stage / ".writing", *checkpoints(stage)):
        shutil.rmtree(path, ignore_errors=True)


def _arguments(stage: StageConfig, folder: Path, seed: int, workers: int, *, validate: bool) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(folder),
        seed=seed,
        use_cpu=not torch.cuda.is_available(),
        num_train_epochs=stage.epochs,
        max_steps=stage.max_steps,
        per_device_train_batch_size=stage.batch_size,
        per_device_eval_batch_size=stage.batch_size,
        gradient_accumulation_steps=stage.accumulation,
        learning_rate=stage.lr,
        weight_decay=stage.weight_decay,
        warmup_steps=stage.warmup,  # below 1 it is a share of all steps
        lr_scheduler_type=stage.schedule,
        max_grad_norm=stage.max_grad_norm,
        eval_strategy="epoch" if validate else "no",
        save_strategy="epoch",
        logging_steps=10,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        prediction_loss_only=True,
        remove_unused_columns=False,
        label_names=["labels"],
        report_to=[],
        dataloader_num_workers=workers,
        dataloader_multiprocessing_context=CONTEXT if workers else None,
        dataloader_pin_memory=torch.cuda.is_available(),
        accelerator_config={"non_blocking": torch.cuda.is_available()},
    )
    # Several GPUs without a launcher would mean DataParallel, whose replicas don't share what injection prepares.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S")
