"""What attacks scored, as tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from gpz_jax.presentation import number, quantity

ATTACK_COLUMNS = ("mse", "ratio", "mse_paper", "psnr", "psnr_paper", "ssim", "lpips", "cosine")


def attack_table(title: str, results: Sequence[Mapping[str, Any]]) -> Table:
    """What attacks scored on test images, one row an attack, and the floors below.

    Args:
      title: of the table.
      results: what ``workflow.attack_run`` returns.
    """
    ladder = len({result["cut"] for result in results}) < len(results)
    most = max((result["test_images"] for result in results), default=0)
    columns = [name for name in ATTACK_COLUMNS if any(name in result["scores"] for result in results)]
    caption = (
        "mse per element, pixels in [0, 1]; /class mean: mse over that of the class-mean floor, with its 95 % interval "
        "over images, 1 or more means that z gave no more than the label; _paper: as in the paper (summed over "
        "channels; PSNR of batches); collapse: variance of the reconstructions over that of the images"
    )
    if any(result["test_images"] < most for result in results):
        caption += "; (n images): on the first n test images only, compare by /class mean"
    table = Table(title=escape(title), caption=caption + ("; *: the best at its cut" if ladder else ""))
    for head in ("cut", "D", "decoder", "parameters"):
        table.add_column(head, justify="left" if head in ("cut", "decoder") else "right")
    for name in columns:
        table.add_column("/class mean" if name == "ratio" else name, justify="right")
    table.add_column("collapse", justify="right")
    table.add_column("loss flattened?")
    for before, result in zip([None, *results], results, strict=False):
        if ladder and before is not None and before["cut"] != result["cut"]:
            table.add_section()
        scores = [number(result["scores"][name]) if name in result["scores"] else "" for name in columns]
        # Scored on fewer images, it compares with the others by /class mean only: the floor is that of its images.
        few = "" if result["test_images"] == most else f" ({result['test_images']} images)"
        low, high = result["intervals"]["ratio"]
        scores[columns.index("ratio")] += f" [{number(low)}, {number(high)}]"
        table.add_row(
            escape(result["cut"]),
            str(result["dimension"]),
            escape(result["decoder"] + few + (" *" if ladder and result["best"] else "")),
            quantity(result["decoder_parameters"]).strip(),
            *scores,
            number(result["prior_collapse"]),
            _flattened(result),
        )
    if results:
        floors = results[0]["floors"]
        table.add_section()
        for name in ("class_mean", "label_only", "mean_image"):
            empty = [""] * len(columns)
            empty[columns.index("mse")] = number(floors[name])
            empty[columns.index("ratio")] = number(floors[name] / floors["class_mean"])
            table.add_row(f"floor: {name.replace('_', ' ')}", "", "", "", *empty)
    return table


def _flattened(result: Mapping[str, Any]) -> str:
    if result["kind"] == "linear":
        return "closed form"
    if result["kind"] == "decoder" and len(result["selection_loss"]) < 5:
        return "NO (under 5 epochs)"
    fell = f"last fifth: -{100 * result['last_gain']:.1f} %"
    return f"{'yes' if result['flattened'] else 'NO'} ({fell})"


def leak_table(title: str, results: Sequence[Mapping[str, Any]]) -> Table:
    """The images and classes that the best attack on each cut inverted best and worst.

    Args:
      title: of the table.
      results: what ``workflow.attack_run`` returns.
    """
    table = Table(title=escape(title), caption="number of the test image (its class): mse; class: mean mse")
    for head in ("cut", "decoder", "best inverted images", "worst", "best inverted classes", "worst"):
        table.add_column(head)
    for result in (result for result in results if result["best"]):
        leaks = result["leaks"]
        images, classes = (
            [[form(entry) for entry in leaks[f"{end}_{what}"][:3]] for end in ("best", "worst")]
            for what, form in (
                ("images", lambda e: f"{e['image']} ({e['label']}): {number(e['mse'])}"),
                ("classes", lambda e: f"{e['label']}: {number(e['mse'])}"),
            )
        )
        table.add_row(
            escape(result["cut"]), escape(result["decoder"]), *(", ".join(part) for part in (*images, *classes))
        )
    return table
