"""The `distill` command: one trial, one evaluation, one export at a time. No cluster, no search.

Heavy imports wait inside the commands, so that `--help` answers at once.
"""

import functools
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import click

if TYPE_CHECKING:
    from distill.export import ExportResult, FormatFacts
    from distill.teachers.specialist import Group


def guarded(command: Callable[..., Any]) -> Callable[..., Any]:
    """Ends a command as users expect: one sentence and the exit code, instead of a traceback."""

    @functools.wraps(command)
    def guard(*args: Any, **kwargs: Any) -> Any:
        from distill.errors import DivergenceError, InputError, RefusedError

        try:
            return command(*args, **kwargs)
        except InputError as error:
            fail(str(error), code=2)
        except RefusedError as error:
            fail(str(error), code=3)
        except DivergenceError as error:
            fail(str(error), code=1)
        except KeyboardInterrupt:
            fail("interrupted", code=130)

    return guard


def fail(message: str, *, code: int) -> NoReturn:
    """Says why on stderr and exits."""
    click.echo(message, err=True)
    sys.exit(code)


def numbers(nested: Any, *, prefix: str) -> dict[str, float]:
    """The numbers inside nested mappings and lists, each under the path that leads to it."""
    if isinstance(nested, dict):
        items = nested.items()
    elif isinstance(nested, list | tuple):
        # Groups name themselves; other items are counted.
        items = (
            (item.get("group", i) if isinstance(item, dict) else i, item) for i, item in enumerate(nested)
        )
    else:
        return {prefix: float(nested)} if isinstance(nested, int | float) else {}
    return {name: n for key, inner in items for name, n in numbers(inner, prefix=f"{prefix}/{key}").items()}


def show(metrics: dict[str, float], about: dict[str, Any], *, as_json: bool) -> None:
    """Prints metrics, a line each, or one JSON document of what they are about and them.

    A metric that is not a number is undefined: null in JSON, which has no NaN.
    """
    if as_json:
        defined = {name: None if math.isnan(value) else value for name, value in metrics.items()}
        click.echo(json.dumps({**about, "metrics": defined}, indent=2))
        return
    width = max(map(len, metrics))
    for name, value in metrics.items():
        click.echo(f"{name:<{width}} {'undefined' if math.isnan(value) else f'{value:.6g}'}")


DATA = click.option(
    "--data",
    default="embedded-benchmark",
    show_default=True,
    help="Verification pairs: embedded-validation, embedded-benchmark, a .bin pack, an RFW folder, or a "
    "folder of images with --pairs.",
)
PAIRS = click.option(
    "--pairs", "pairs_file", type=click.Path(path_type=Path), help="The file that pairs up a folder's images."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Distil a face-recognition teacher into a student: one trial at a time."""


@main.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder for checkpoints and student."
)
@click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Overrides a field of the config.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; all cores unless told.")
@click.option(
    "--cache", type=click.Path(path_type=Path), help="Folder of embedding caches. [default: OUT/cache]"
)
@guarded
def train(
    config: Path, out: Path, overrides: tuple[str, ...], threads: int | None, cache: Path | None
) -> None:
    """Trains one student as the YAML file CONFIG says; goes on where OUT holds an unfinished training."""
    import torch

    from distill.checkpoint import read_notes
    from distill.config import read_config
    from distill.training import train as run

    trial = read_config(config, overrides)
    if threads:
        torch.set_num_threads(threads)
    told = read_notes(out)

    def report(metrics: dict[str, float], checkpoint: Path) -> None:
        for note in read_notes(out)[len(told) :]:
            click.echo(note, err=True)
            told.append(note)
        shown = (trial.selection.metric, "train/loss", "train/similarity", "train/faces_per_second")
        figures = "  ".join(f"{name} {metrics[name]:.4g}" for name in dict.fromkeys(shown) if name in metrics)
        click.echo(f"epoch {int(metrics['epoch'])}/{trial.training.epochs}  {figures}")

    best = run(trial, report=report, directory=out, cache=cache or out / "cache")
    metric = trial.selection.metric
    click.echo(f"best: epoch {int(best['epoch'])}, {metric} {best[metric]:.4f}, in {out}")


@main.command()
@click.argument("model")
@DATA
@PAIRS
@click.option(
    "--size", "size_px", type=click.IntRange(min=1), help="Side of the faces, for a file that hides it."
)
@click.option("--fairness", is_flag=True, help="Also give counts, intervals and the noise floor by group.")
@click.option("--identification", is_flag=True, help="Also look people up in a gallery.")
@click.option("--speed", is_flag=True, help="Also time the model on one CPU thread.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@guarded
def evaluate(
    model: str,
    data: str,
    pairs_file: Path | None,
    size_px: int | None,
    fairness: bool,
    identification: bool,
    speed: bool,
    as_json: bool,
) -> None:
    """Measures MODEL on verification pairs.

    MODEL is a student's folder, an .onnx or .pt2 file, or an address in MLflow's registry such as
    models:/face-student@champion.
    """
    from dataclasses import asdict

    from distill.evaluation import (
        embed_pairs,
        fairness_report,
        identification_metrics,
        measured_efficiency,
        pair_metrics,
        pair_similarity,
        static_efficiency,
    )
    from distill.models import load_model, named_pairs

    loaded = load_model(model, size_px=size_px)
    network, pairs = loaded.network, named_pairs(data, pairs_file, loaded)
    unit_ND = embed_pairs(network, pairs)
    similarity_P = pair_similarity(unit_ND, pairs)
    metrics = pair_metrics(similarity_P, pairs, prefix=pairs.name)
    if fairness:
        report = fairness_report(similarity_P, pairs)
        metrics |= numbers(asdict(report), prefix=f"{pairs.name}/fairness")
    if identification:
        metrics |= identification_metrics(unit_ND, pairs, prefix=pairs.name)
    metrics["efficiency/file_bytes"] = float(loaded.file.stat().st_size)
    if loaded.card is not None:
        metrics |= static_efficiency(network, size_px=loaded.size_px)
    if speed:
        metrics |= measured_efficiency(network, size_px=loaded.size_px)
    about = {"model": model, "sha256": loaded.sha256, "data": data, "data_sha256": pairs.digest}
    show(metrics, about, as_json=as_json)
    if any(map(math.isnan, metrics.values())):
        click.echo(f"{data} holds pairs of one kind only: what needs both is undefined", err=True)


UNALIGNED = "no face is looked for: images must be aligned as the training faces were"
MODEL = click.option(
    "--model", required=True, help="A student's folder, an .onnx or .pt2 file, or models:/NAME@ALIAS."
)
SIZE = click.option(
    "--size", "size_px", type=click.IntRange(min=1), help="Side of the faces, for a file that hides it."
)


@main.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@MODEL
@click.option(
    "--out", type=click.Path(path_type=Path), help="A .npy, .csv or .json file. [default: JSON on stdout]"
)
@click.option("--raw", is_flag=True, help="Leave embeddings as long as they are. [default: unit length]")
@click.option("--batch", "batch_size", type=click.IntRange(min=1), default=128, show_default=True)
@SIZE
@guarded
def embed(
    images: tuple[Path, ...], model: str, out: Path | None, raw: bool, batch_size: int, size_px: int | None
) -> None:
    """Embeds IMAGES, files or folders of them.

    Faces must be aligned as the model's training faces were: none is looked for or turned. Of an image of
    another size the largest square in the middle is resized.
    """
    from distill.embedding import check_output, document, embed_files, image_files, write_embeddings
    from distill.models import load_model

    if out is not None:
        check_output(out)
    files = image_files(images)
    loaded = load_model(model, size_px=size_px)
    click.echo(UNALIGNED, err=True)
    embedding_ND = embed_files(loaded.network, files, size_px=loaded.size_px, raw=raw, batch_size=batch_size)
    if out is None:
        click.echo(json.dumps(document(files, embedding_ND)))
        return
    write_embeddings(out, files, embedding_ND)
    length = "as long as they came" if raw else "of unit length"
    click.echo(f"wrote {len(files):,} embeddings of {embedding_ND.shape[1]} numbers, {length}, to {out}")


@main.command()
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@MODEL
@click.option(
    "--far",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=1e-3,
    show_default=True,
    help="False accept rate of the threshold, a fraction.",
)
@click.option(
    "--data",
    help="Verification pairs, as for `distill evaluate`, that the threshold is measured on. [default: the "
    "embedded world's benchmark, for its students]",
)
@PAIRS
@SIZE
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@guarded
def verify(
    first: Path,
    second: Path,
    model: str,
    far: float,
    data: str | None,
    pairs_file: Path | None,
    size_px: int | None,
    as_json: bool,
) -> None:
    """Says whether the images FIRST and SECOND are of one person.

    Faces must be aligned as the model's training faces were: none is looked for or turned.
    """
    from distill.models import load_model, named_pairs
    from distill.verify import usual_pairs
    from distill.verify import verify as run

    loaded = load_model(model, size_px=size_px)
    pairs = named_pairs(data or usual_pairs(model, loaded), pairs_file, loaded)
    click.echo(UNALIGNED, err=True)
    found = run(loaded.network, first, second, pairs=pairs, far=far, size_px=loaded.size_px)
    if as_json:
        click.echo(json.dumps({"model": model, "sha256": loaded.sha256, **found.document()}, indent=2))
        return
    click.echo(f"similarity {found.similarity:.4f}")
    click.echo(
        f"threshold  {found.threshold:.4f}: accepts {found.far:.2g} of {found.num_impostors:,} impostor "
        f"pairs, {found.tar:.1%} of genuine ones"
    )
    if not found.is_sure_of_threshold:
        click.echo("few impostor pairs set that threshold: with others it might be another")
    click.echo("the same person" if found.same_person else "not the same person")


@main.command()
@click.argument("model")
@click.option(
    "--format",
    "chosen",
    type=click.Choice(["onnx", "pt2", "onnx-int8", "all"]),
    default="onnx",
    show_default=True,
    help="onnx-int8 calculates in 8 bits.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the files.")
@click.option(
    "--preprocessing",
    type=click.Choice(["metadata", "graph"]),
    default="metadata",
    show_default=True,
    help="metadata: files take float32 (B, 3, H, H) in [-1, 1]. graph: a bitmap's uint8 (B, H, H, 3).",
)
@DATA
@PAIRS
@click.option(
    "--faces",
    default="embedded-validation",
    show_default=True,
    help="Pairs, as for --data, on whose faces files are compared with the student, and 8 bits calibrated.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@guarded
def export(
    model: str,
    chosen: Literal["onnx", "pt2", "onnx-int8", "all"],
    out: Path,
    preprocessing: Literal["metadata", "graph"],
    data: str,
    pairs_file: Path | None,
    faces: str,
    as_json: bool,
) -> None:
    """Writes the student MODEL as files to ship, and measures them beside it.

    MODEL is a student's folder, or its address in MLflow's registry. A file that does not embed as the
    student does is not left behind.
    """
    from dataclasses import asdict

    from distill.errors import InputError, RefusedError
    from distill.export import FORMATS, compare_formats, export_all
    from distill.models import load_model, named_pairs

    loaded = load_model(model)
    if loaded.card is None:
        raise InputError(f"{model} must be a student's folder or address to be exported, it is a file")
    pairs, compared = named_pairs(data, pairs_file, loaded), named_pairs(faces, None, loaded).images_NCHW
    compared = compared[:: max(1, len(compared) // 256)][:256]  # images come person by person
    results, refusals = export_all(
        loaded.network,
        loaded.card,
        out,
        formats=FORMATS if chosen == "all" else (chosen,),
        faces=compared,
        preprocessing=preprocessing,
    )
    rows = compare_formats(loaded.network, loaded.card, results, pairs)
    if as_json:
        files = [{**asdict(result), "path": str(result.path)} for result in results]
        about = {"model": model, "data": data, "preprocessing": preprocessing}
        click.echo(json.dumps({**about, "files": files, "formats": [asdict(row) for row in rows]}, indent=2))
    else:
        show_exports(results, rows)
    if refusals:
        raise RefusedError("\n".join(map(str, refusals)))


def show_exports(results: "list[ExportResult]", rows: "list[FormatFacts]") -> None:
    """Prints where files are and how near to the student, and a table of the formats."""
    for result in results:
        click.echo(
            f"wrote {result.path}: mean cosine with the student {result.parity.mean_cosine:.6f}, "
            f"least {result.parity.min_cosine:.6f}, over {result.parity.num_faces} faces"
        )
    click.echo(f"{'format':<10}{'bytes':>12}{'accuracy':>10}{'faces/s at 1':>14}{'at 128':>10}")
    for row in rows:
        alone, together = row.faces_per_second.values()
        click.echo(
            f"{row.format:<10}{row.size_bytes:>12,}{row.accuracy:>10.4f}{alone:>14.0f}{together:>10.0f}"
        )


@main.command()
@click.argument("student", type=click.Path(path_type=Path))
@click.option("--classes", type=click.IntRange(min=2), default=200, show_default=True, help="Identities.")
@click.option("--images", type=click.IntRange(2, 1000), default=10, show_default=True, help="Faces of each.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@guarded
def privacy(student: Path, classes: int, images: int, as_json: bool) -> None:
    """How far synthetic classes tell of the authentic identities behind them, as STUDENT embeds them.

    Any student will do that was not the teacher of the synthetic faces.
    """
    from distill.checkpoint import load_student
    from distill.evaluation import evaluate_privacy
    from distill.faces import EmbeddedFacesSettings

    network, card = load_student(student)
    faces = EmbeddedFacesSettings(size_px=card.size_px)
    authentic, synthetic = (
        faces.labelled(num_classes=classes, images_per_class=images, authentic=kind) for kind in (True, False)
    )
    metrics = evaluate_privacy(
        network,
        authentic,
        synthetic,
        teacher_digest=card.teacher_digest,
        embedder_digest=card.sha256,
    )
    show(metrics, {"embedder": str(student), "classes": classes, "images": images}, as_json=as_json)


@main.command()
@click.option("--grid", type=click.Path(path_type=Path), required=True, help="PNG to write.")
@click.option(
    "--size", "size_px", type=click.IntRange(16, 112), default=112, show_default=True, help="Side, px."
)
@click.option("--identities", type=click.IntRange(1, 64), default=8, show_default=True, help="Rows.")
@click.option("--columns", type=click.IntRange(1, 64), default=8, show_default=True, help="Faces of each.")
@click.option("--seed", type=int, default=0, show_default=True)
@guarded
def faces(grid: Path, size_px: int, identities: int, columns: int, seed: int) -> None:
    """Draws a contact sheet of the embedded world: rows are identities, columns are nuisance."""
    from distill.faces import write_contact_sheet

    write_contact_sheet(grid, size_px=size_px, num_identities=identities, num_columns=columns, seed=seed)
    click.echo(f"wrote {grid}")


@main.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Name of the files, less their suffixes."
)
@click.option("--sha256", help="Digest that the pickle must have.")
@click.option("--licence", help="Under which its weights may be used, for the record.")
@guarded
def convert(source: Path, out: Path, sha256: str | None, licence: str | None) -> None:
    """Makes a generator that trials can load of the StyleGAN2 pickle SOURCE, and executes nothing of it."""
    from distill.faces.stylegan2.convert import convert as run

    click.echo(f"wrote {run(source, out, sha256=sha256, licence=licence)} and its card")


@main.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for weights and card.")
@click.option(
    "--specialist",
    type=click.Choice(["group_a", "group_b", "group_c", "group_d"]),
    help="Train the specialist of this group instead.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@guarded
def teacher(out: Path, specialist: "Group | None", seed: int) -> None:
    """Trains a teacher of the embedded world again, as its card says it was trained."""
    from distill.evaluation import evaluate_verification
    from distill.teachers import train_embedded_teacher, train_specialist_teacher

    if specialist is None:
        recipe = train_embedded_teacher
    else:
        recipe = functools.partial(train_specialist_teacher, group=specialist)
    weights = recipe(
        out,
        seed=seed,
        evaluate=lambda network, pairs: evaluate_verification(network, pairs, prefix=pairs.name),
        report=lambda step, loss: click.echo(f"step {step}  loss {loss:.3f}"),
    )
    click.echo(f"wrote {weights} and its card")
