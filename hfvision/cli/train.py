"""`hfvision train TASK`: fine-tune a model on a data set."""

from pathlib import Path
from typing import Annotated, Any

import typer

from hfvision.cli.output import JsonOption, emit

app = typer.Typer()


@app.callback()
def tasks() -> None:
    """Fine-tune a model on a data set."""


@app.command()
def classification(
    model: Annotated[str, typer.Option(help="Hub id, folder, or a model that ships with hfvision (vit-digits).")],
    dataset: Annotated[str, typer.Option(help='Hub id, folder of class folders, parquet file, or "digits".')],
    output: Annotated[Path, typer.Option(help="Folder to write: new, empty, or an interrupted run (--resume).")],
    epochs: Annotated[float, typer.Option(help="Times to go through the training images.")] = 3.0,
    max_steps: Annotated[int | None, typer.Option(help="Optimizer steps; goes before --epochs.")] = None,
    batch_size: Annotated[int, typer.Option(help="Images per device and step.")] = 32,
    gradient_accumulation: Annotated[int, typer.Option(help="Batches per optimizer step.")] = 1,
    learning_rate: Annotated[float, typer.Option(help="Highest learning rate (AdamW).")] = 5e-5,
    warmup: Annotated[float, typer.Option(help="Share of the steps (below 1), or number of steps.")] = 0.1,
    weight_decay: Annotated[float, typer.Option()] = 0.01,
    drop_path: Annotated[float, typer.Option(help="Stochastic depth of the last block.")] = 0.0,
    seed: Annotated[int, typer.Option()] = 0,
    precision: Annotated[str, typer.Option(help="fp32, bf16 or fp16 (mixed precision).")] = "fp32",
    activation_checkpointing: Annotated[bool, typer.Option(help="Less memory, more time.")] = False,
    save_every: Annotated[int | None, typer.Option(help="Steps between checkpoints. [default: one epoch]")] = None,
    keep_best: Annotated[bool, typer.Option(help="End with the most accurate checkpoint, not the last.")] = False,
    workers: Annotated[int, typer.Option(help="Processes that read images.")] = 0,
    image_column: Annotated[str | None, typer.Option(help="Where several columns could hold the images.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Where several columns could hold the labels.")] = None,
    train_split: Annotated[str | None, typer.Option(help="Split to train on.")] = None,
    eval_split: Annotated[str | None, typer.Option(help="Split to measure on.")] = None,
    dataset_config: Annotated[str | None, typer.Option(help="Configuration of a Hub data set.")] = None,
    held_out: Annotated[float, typer.Option(help="Share to hold out where there is no split to measure on.")] = 0.1,
    drop_empty_classes: Annotated[bool, typer.Option(help="Leave out classes without a training image.")] = False,
    check_images: Annotated[int, typer.Option(help="Images per split to decode before training.")] = 20_000,
    license: Annotated[str | None, typer.Option(help="Licence of the result. [default: the base model's]")] = None,
    resume: Annotated[bool, typer.Option(help="Continue an interrupted run; starts it if there is none.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Fine-tune an image classifier; other classes get a new head. The same command with --resume continues a run."""
    from hfvision.training.arguments import TrainingSettings
    from hfvision.training.classification import train_classification

    settings = TrainingSettings(
        epochs=epochs,
        max_steps=max_steps,
        batch_size=batch_size,
        gradient_accumulation=gradient_accumulation,
        learning_rate=learning_rate,
        warmup=warmup,
        weight_decay=weight_decay,
        drop_path=drop_path,
        seed=seed,
        precision=precision,
        activation_checkpointing=activation_checkpointing,
        save_every=save_every,
        keep_best=keep_best,
        workers=workers,
    )
    data_options: dict[str, Any] = {
        "image_column": image_column,
        "label_column": label_column,
        "config_name": dataset_config,
        "train_split": train_split,
        "eval_split": eval_split,
        "held_out": held_out,
        "drop_empty_classes": drop_empty_classes,
        "check_images": check_images,
    }
    result = train_classification(
        model, dataset, output, settings=settings, data_options=data_options, resume=resume, license=license
    )
    text = (
        f"accuracy {result.accuracy:.2%} on {result.samples:,} held-out images ({result.split}) after {result.steps:,} "
        f"steps\nThe model is in {result.output_dir}: hfvision predict IMAGE --model {result.output_dir}"
    )
    emit(vars(result), text, as_json)
